// Shows the part of GitHub Flavored Markdown that cards of this project use (cds/cards.py,
// cds/wording.py): paragraphs, lists with "-", **strong**, code spans, backslash escapes, four
// entities. It builds nodes and knows no HTML: whatever else a text holds is shown as it stands.

const ENTITIES = { "&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": '"' };
const ITEM = /^ {0,3}- +(?=\S)/;

/** Return the nodes for a Markdown text. */
export function renderMarkdown(text) {
  const result = document.createDocumentFragment();
  let list = null;
  let open = []; // lines of the paragraph or list item that is being read
  let place = null;
  const close = () => {
    if (open.length) place.append(...inline(open.join("\n").trimEnd()));
    open = [];
  };
  for (const line of String(text).split(/\r\n|[\r\n]/)) {
    if (!line.trim()) {
      close();
      place = null;
    } else if (ITEM.test(line)) {
      close();
      if (!list) result.append((list = document.createElement("ul")));
      list.append((place = document.createElement("li")));
      open.push(line.replace(ITEM, ""));
    } else {
      if (!place) {
        list = null;
        result.append((place = document.createElement("p")));
      }
      open.push(line.trimStart());
    }
  }
  close();
  return result;
}

/** Return the nodes for the text of one block. */
function inline(text) {
  const nodes = [];
  let plain = "";
  const put = (node) => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
    if (node) nodes.push(node);
  };
  let at = 0;
  while (at < text.length) {
    const [end, kind, content] = piece(text, at);
    if (kind === "text") plain += content;
    else {
      const node = document.createElement(kind);
      if (kind === "code") node.textContent = content;
      else node.append(...inline(content));
      put(node);
    }
    at = end;
  }
  put(null);
  return nodes;
}

/** Return where the piece that begins at `at` ends, what it is, and what it holds. */
function piece(text, at) {
  const rest = text.slice(at, at + 6);
  if (text[at] === "\n") return [at + 1, "text", " "];
  if (/^\\[!-/:-@[-`{-~]/.test(rest)) return [at + 2, "text", text[at + 1]];
  const entity = Object.keys(ENTITIES).find((name) => rest.startsWith(name));
  if (entity) return [at + entity.length, "text", ENTITIES[entity]];
  if (text[at] === "`") return codeSpan(text, at);
  if (/^\*\*[^\s*]/.test(rest)) {
    const end = strongEnd(text, at + 2);
    if (end > 0) return [end + 2, "strong", text.slice(at + 2, end)];
  }
  if (rest.startsWith("**")) return [at + 2, "text", "**"];
  return [at + 1, "text", text[at]];
}

function codeSpan(text, at) {
  const fence = /^`+/.exec(text.slice(at))[0];
  for (const run of text.slice(at + fence.length).matchAll(/`+/g)) {
    if (run[0].length === fence.length) {
      const start = at + fence.length;
      let content = text.slice(start, start + run.index).replaceAll("\n", " ");
      if (/^ .*\S.* $/.test(content)) content = content.slice(1, -1);
      return [start + run.index + fence.length, "code", content];
    }
  }
  return [at + fence.length, "text", fence];
}

/** Return where the closing ** stands, or -1; those in code spans or escaped do not count. */
function strongEnd(text, from) {
  let at = from;
  while (at < text.length) {
    if (text.startsWith("**", at) && !/\s/.test(text[at - 1])) return at;
    if (text[at] === "`") [at] = codeSpan(text, at);
    else at += text[at] === "\\" ? 2 : 1;
  }
  return -1;
}
