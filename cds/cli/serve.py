"""The command `serve`: the CDS Hooks service."""

from __future__ import annotations

import sys

import click

from cds.cli.common import say, unusable

__all__ = ["serve"]


@click.command()
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="TOML file of settings; also by the environment variable CDS_SERVICE_CONFIG. Each "
    "setting can come from the environment, too: CDS_SERVICE_PORT.",
)
@click.option("--host", metavar="ADDRESS", help="Address to listen on.")
@click.option("--port", type=int, metavar="N", help="Port to listen on.")
@click.option("--workers", type=int, metavar="N", help="Processes that answer calls.")
@click.option(
    "--insecure-demo",
    is_flag=True,
    default=None,
    help="For playing on this machine: loopback only, plain HTTP, no authentication, a temporary "
    "database where none is named. Never for patients' data.",
)
@click.option(
    "--print-config",
    is_flag=True,
    help="Print all settings as a documented TOML file, and serve nothing.",
)
@click.option(
    "--check",
    "only_check",
    is_flag=True,
    help="Check what would be checked before the start (settings, certificate, keys, rules, "
    "database), and serve nothing.",
)
def serve(
    config: str | None,
    host: str | None,
    port: int | None,
    workers: int | None,
    insecure_demo: bool | None,
    print_config: bool,
    only_check: bool,
) -> None:
    """Serve CDS Hooks 2.0 over HTTP.

    Without --insecure-demo it starts only with TLS or behind a proxy, and only for clients that
    the settings name. Exit code 2 where it cannot start so; every reason is said.
    """
    try:
        from cds.service import server, settings
    except ModuleNotFoundError as error:
        unusable(
            f"the service needs more packages ({error.name}): pip install 'cds-twitch[service]'"
        )
    given = (config, host, port, workers, insecure_demo, settings.variables())
    if print_config and not any(given):
        # To write a file from; what would be missing for a start is not asked for.
        click.echo(settings.documented(), nl=False)
        return
    found = settings.load(
        config, host=host, port=port, workers=workers, insecure_demo=insecure_demo
    )
    if print_config:
        click.echo(settings.documented(found), nl=False)
        return
    if found.insecure_demo:
        say(
            "INSECURE DEMO: whoever can reach this machine's loopback address can call it, "
            "unencrypted"
            + (" and without a token" if found.auth == "off" else "")
            + ". Never for patients' data."
        )
    if only_check:
        server.check(found)
        say("the service can start")
        return
    sys.exit(server.run(found, say))
