"""The entry point: arguments in, exit code out, and one line for every error."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn

from cp_compress import __version__
from cp_compress.base.arguments import did_you_mean
from cp_compress.base.error_reasons import printable_lines
from cp_compress.base.errors import FORESEEN, InvalidArgumentError
from cp_compress.base.outcomes import INTERRUPTED
from cp_compress.base.showing.work import LOGGER
from cp_compress.cli import compare, compress, encode, footprint, gate, init, inspect, observe, profile, search, verify
from cp_compress.cli.output import FAILED, USAGE, emit_error, prepare_streams, require_different_files

_COMMANDS = (compress, footprint, observe, compare, search, encode, inspect, verify, profile, init, gate)
_EPILOG = """\
MODEL is either "package.module:factory" (a function without arguments that
returns the model) or the path of a file: one written by `cp-compress
compress`, weights in safetensors or torch.save format, for which
--architecture names the factory of the original model, an ONNX file, a program
of torch.export, or a folder of transformers; for the level language also the
address of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.
DATA is either a factory of labelled examples, an .npz file of inputs and
labels, or a folder with one subfolder of images per class.
Modules are also searched in the current folder.

exit codes:
    0  success; all requirements hold
    1  a requirement does not hold, or a search found no candidate that meets
       all requirements
    2  invalid arguments
    3  inconclusive; more examples are needed
    4  the command could not be completed
  130  interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with the given arguments (default: those of the process) and return its exit code."""
    prepare_streams()
    parser = _parser()
    _Parser.given = sys.argv[1:] if arguments is None else arguments
    options, passed_on = parser.parse_known_args(arguments)
    if passed_on and not getattr(options, "passes_on", False):
        option = passed_on[0].partition("=")[0]
        near = _placed(option, options.places) or did_you_mean(option, options.known_options)
        options.refuse(f"unrecognized arguments: {' '.join(passed_on)}{near and f'; {near}'}")
    options.passed_on = passed_on
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    told = logging.StreamHandler()  # to the standard error of this call
    LOGGER.addHandler(told)
    LOGGER.setLevel(logging.INFO)
    try:
        require_different_files(options)
        if options.json not in (None, "-"):  # a result of an earlier run must not be taken for this one's
            emit_error(
                options, "the command did not finish: it is still running, or its process ended by itself", FAILED
            )
        code: int = options.run(options)
    except InvalidArgumentError as error:
        return _tell(options, str(error), USAGE)
    except FORESEEN as error:
        return _tell(options, str(error), FAILED)
    except KeyboardInterrupt:
        return _tell(options, "interrupted", INTERRUPTED)
    except Exception as error:
        # 1 would mean a requirement that does not hold; unforeseen errors are shown in full
        print(printable_lines(traceback.format_exc()), file=sys.stderr)
        return _tell(options, f"{type(error).__name__}: {error}", FAILED)
    finally:
        LOGGER.removeHandler(told)
    return code


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are two lines, and say which choice or option is near."""

    given: ClassVar[Sequence[str]] = ()
    """The arguments of the process."""

    def error(self, message: str) -> NoReturn:
        """Print the message, with the nearest choice or option, and end the process with 2."""
        found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        near = did_you_mean(found[1], re.findall(r"[\w-]+", found[2])) if found else ""
        if "are required" in message:
            known = [text for action in self._actions for text in action.option_strings]
            words = [word.partition("=")[0] for word in self.given if word.startswith("--")]
            misspelt = [(word, did_you_mean(word, known)) for word in words if word not in known]
            near = next((f"{word} is no option, {told}" for word, told in misspelt if told), "")
        told = f"{self.prog}: error: {message}{near and f'; {near}'}"
        print(printable_lines(f"{told}\n`{self.prog} --help` shows how it is used"), file=sys.stderr)
        self.exit(USAGE)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="cp-compress",
        description="Compress models, and measure whether they still do the same thing.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in _COMMANDS:
        name = command.__name__.rpartition(".")[2]
        summary = (command.__doc__ or "").partition("\n")[0]
        layout = argparse.RawDescriptionHelpFormatter
        sub = commands.add_parser(name, help=summary, description=summary, epilog=_EPILOG, formatter_class=layout)
        command.add_arguments(sub)
        known = [text for action in sub._actions for text in action.option_strings]
        places = {action.dest: str(action.metavar) for action in sub._actions if not action.option_strings}
        sub.set_defaults(run=command.run, known_options=known, places=places, refuse=sub.error)
    return parser


def _placed(option: str, places: Mapping[str, str]) -> str:
    """Return where an argument stands that was given by name and has none, or an empty text for another."""
    name = option.lstrip("-")
    if name == "scheme" and "candidate" in places:
        return 'a scheme makes a model: cp-compress compress MODEL --scheme "…" --output candidate.cp'
    place = places.get(name)
    return f"write its value in the place of {place}: {' '.join(places.values())}" if place else ""


def _tell(options: argparse.Namespace, message: str, code: int) -> int:
    print(printable_lines(f"cp-compress: {message}"), file=sys.stderr)
    emit_error(options, message, code)
    return code


if __name__ == "__main__":
    sys.exit(main())
