"""The command line: `penstock COMMAND`. One module a group of commands.

What a command imports beyond this package it imports when it runs, so that `penstock --help` does not load a database.
"""

import os

import typer

# gRPC's fork handlers are for those who go on after a fork. We only ever fork to run another program, and with them on
# each time logs that threads were in the way. It is read when gRPC is imported, which the commands' modules do.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
# Searches multiply small matrices, thousands a second, on threads of their own. More threads for each multiplication
# wait for each other by spinning: 40 % of all CPU time with two. Read when the libraries are loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The library that runs the encoder (from 1.32 on) would tell its maker about each run. Read when it is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from penstock.cli.loading import uncollected

with uncollected():
    from penstock.cli import (
        accounts,
        backup,
        demo,
        doctor,
        envoy_config,
        evaluate,
        feed,
        kpis,
        load_products,
        serve,
        status,
    )

app = typer.Typer(
    help="Event streams in, decisions out: durable ingest, KPIs and ETL control over gRPC and REST, on ClickHouse.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # they print local variables, and those may hold secrets
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up", help=serve.UP)(serve.command(rest=True))
app.command("serve", help=serve.SERVE)(serve.command(rest=False))
app.command("demo")(demo.demo)
app.command("replay")(feed.replay)
app.command("simulate")(feed.simulate)
app.command("load-products")(load_products.load_products_command)
app.command("kpis")(kpis.kpis)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(accounts.app, name="accounts")
app.command("status")(status.status)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
app.command("envoy-config")(envoy_config.envoy_config)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """The entry point of the `penstock` script."""
    app(prog_name="penstock")
