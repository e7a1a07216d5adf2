"""The CDS Hooks 2.0 service around the screening: HTTP in, cards out.

It decides nothing clinical. It needs the extra ``[service]``; nothing else of the package imports
it but the command ``cds serve``. `app.create_app` makes the application, `calls.Calls` answers one
hook call.
"""
