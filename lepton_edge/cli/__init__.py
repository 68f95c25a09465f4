"""The command line: one module a verb. Results go to stdout, all else to stderr."""

from __future__ import annotations

import json
import os
import sys
import traceback

import typer

from lepton_edge import errors

INTERRUPTED = 130


def _app() -> typer.Typer:
    from lepton_edge.cli import (
        benchmark,
        compare,
        convert,
        demo,
        devices,
        distil,
        doctor,
        evaluate,
        finetune,
        inspect,
        prune,
        recipe,
        report,
        verify,
    )

    app = typer.Typer(
        name="lepton-edge",
        help="Make a trained model small and fast for one device, and prove that it still works.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_version)
    verbs = (
        *(inspect, convert, verify, evaluate, benchmark, compare, prune, distil, finetune),
        *(report, devices, doctor, demo),
    )
    for verb in verbs:
        app.command(name=verb.__name__.rpartition(".")[2])(verb.command)
    app.command(name="run")(recipe.command)  # `run` here is the function below
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        from lepton_edge import __version__

        print(f"lepton-edge {__version__}")
        raise typer.Exit


def _version(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Make a trained model small and fast for one device, and prove that it still works."""


def main() -> None:
    """The entry point: turns every error into one sentence and its exit code."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Runs one command line; returns the exit code. No traceback without --debug."""
    command = typer.main.get_command(_app())
    try:
        result = command.main(arguments, prog_name="lepton-edge", standalone_mode=False)
        # typer turns Ctrl-C into the code that shells expect, and says nothing.
        if result == INTERRUPTED:
            return _interrupted()
        return result if isinstance(result, int) else 0
    except errors.EdgeError as error:
        if "--debug" in arguments:
            traceback.print_exc()
            print(error.log, file=sys.stderr)
        return _fail(arguments, error)
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:  # the reader of our output went away, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    except Exception as error:  # noqa: BLE001 - the border of the program
        if isinstance(error, typer.Abort):  # what older versions of typer make of Ctrl-C
            return _interrupted()
        if hasattr(error, "format_message"):  # click's own, for a wrong command line
            usage = errors.UsageError(error.format_message(), next=_usage_hint(error))
            return _fail(arguments, usage)
        if "--debug" in arguments:
            traceback.print_exc()
        internal = errors.EdgeError(
            f"{type(error).__name__}: {error}.",
            next="This is a defect of lepton-edge; --debug shows where.",
        )
        return _fail(arguments, internal)


def _interrupted() -> int:
    print("lepton-edge: interrupted; what was unfinished is not written.", file=sys.stderr)
    return INTERRUPTED


def _usage_hint(error: Exception) -> str | None:
    context = getattr(error, "ctx", None)
    return f"See '{context.command_path} --help'." if context is not None else None


def _fail(arguments: list[str], error: errors.EdgeError) -> int:
    if "--json" in arguments:
        document = {
            "status": error.status,
            "exit_code": error.exit_code,
            "error": error.as_dict(),
        }
        print(json.dumps(document, indent=1))
    print(f"lepton-edge: {error}", file=sys.stderr)
    return error.exit_code
