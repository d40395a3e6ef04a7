"""Commands: help pages as wide as the terminal, without types that say nothing; and an end in order on Ctrl-C."""

from __future__ import annotations

from typing import Any

from typer.core import TyperArgument, TyperCommand, TyperGroup

from nh2st_graph.cli._working import interruptible

__all__ = ["Command", "Group"]


def _reflowed(text: str | None) -> str | None:
    """Join the lines of each paragraph, which are as long as lines of code."""
    return text and "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _without_types(params: list[Any]) -> list[Any]:
    """Name no type of a flag, which has no value, and of an argument, whose own name says what it is."""
    for each in params:
        if isinstance(each, TyperArgument):
            each.__dict__["display_type_rich"] = lambda ctx: None
        elif getattr(each, "is_flag", False):
            each.metavar = ""
    return params


class Command(TyperCommand):
    """A command with such a help page, which can be interrupted."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = _reflowed(self.help)

    def get_params(self, ctx: Any) -> Any:
        """List the parameters as the help page shows them."""
        return _without_types(super().get_params(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run the command, and end it in order on Ctrl-C or SIGTERM."""
        with interruptible(any(each.name == "resume" for each in self.params)):
            return super().invoke(ctx)


class Group(TyperGroup):
    """All commands, with such a help page."""

    def get_params(self, ctx: Any) -> Any:
        """List the parameters as the help page shows them."""
        return _without_types(super().get_params(ctx))
