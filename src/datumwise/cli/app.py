"""The commands, by import path: naming one imports it, asking for help imports none."""

from __future__ import annotations

from cyclopts import App, Group, Parameter

from datumwise._version import __version__
from datumwise.cli.help import PlainHelp

__all__ = ["COMMANDS", "app"]

# command -> (where it is, what it does, group in the help)
COMMANDS = {
    "audit": (
        "audit:audit",
        "Say what is wrong with which datapoint, and whether removing it helps.",
        "Work",
    ),
    "ingest": ("ingest:ingest", "Make a ledger of a data set.", "Work"),
    "score": ("score:score", "Compute scores and write them to a ledger.", "Work"),
    "value": ("value:value", "Say what each datapoint is worth to a learner.", "Work"),
    "attribute": ("attribute:attribute", "Say which datapoints helped or hurt a trained model.", "Work"),
    "dedup": ("dedup:dedup", "Find datapoints that say the same as another.", "Work"),
    "select": ("select:select", "Choose which datapoints to keep under a budget.", "Work"),
    "learn": ("learn:learn", "Train a learner and say which datapoints it would not have expected.", "Work"),
    "posterior": ("posterior:posterior", "Infer an unknown from datapoints, and say which of them moved the answer.", "Work"),
    "predict": ("predict:predict", "Predict new datapoints, with promises that hold for the whole batch.", "Work"),
    "forget": ("forget:forget", "Make a model forget datapoints, with a certificate of what was measured.", "Work"),
    "methods": ("score:methods", "List the scores, selectors, learners and forgetting methods there are.", "Work"),
    "reproduce": ("reproduce:reproduce", "Run a published system's headline experiment.", "Work"),
    "report": ("audit:report", "Write the page of a ledger's audit.", "Work"),
    "show": ("query:show", "Show a ledger, one of its datapoints, or the worst by a score.", "Look"),
    "sql": ("query:sql", "Query a ledger with SQL; the table is called ledger.", "Look"),
    "export": ("query:export", "Write rows of a ledger to a file.", "Look"),
    "versions": ("history:versions", "List what was changed when.", "History"),
    "tag": ("history:tag", "Name a version.", "History"),
    "restore": ("history:restore", "Make an earlier version the latest again.", "History"),
    "diff": ("history:diff", "Say what differs between two versions.", "History"),
    "delete": ("delete:delete", "Delete datapoints; with --purge also their bytes.", "History"),
}


def app() -> App:
    """The application; its errors are printed by `datumwise.cli.run`."""
    root = App(
        name="datumwise",
        help="Learn what every single datapoint does, and act on it.",
        version=__version__,
        version_flags=["--version"],
        help_flags=["--help", "-h"],
        default_parameter=Parameter(negative=()),
        help_format="plaintext",
        help_formatter=PlainHelp(),
        help_epilogue="datumwise COMMAND --help says more.",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    groups = {name: Group(name, sort_key=i) for i, name in enumerate(("Work", "Look", "History"))}
    for position, (name, (path, summary, group)) in enumerate(COMMANDS.items()):
        root.command(f"datumwise.cli.{path}", name=name, help=summary, group=groups[group], sort_key=position)
    flags = Group("Flags", sort_key=9)
    for flag in ("--help", "--version"):
        root[flag].group = flags
    return root
