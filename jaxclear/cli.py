"""The command line: `jaxclear demo`, `classify`, `explain`, `map`, `fetch`. Heavy imports wait until they are needed.

Exit codes: 0 done, 1 some files could not be used, 2 nothing could or a mistake in the call, 70 a mistake in this
package or in the code of a given model or source, 75 a full disk, a killed process or a failed device, after which the
same may succeed, 130 interrupted, 141 the reader of the output went away.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jaxclear import __version__
from jaxclear.commands.terminal import complain, insistent_interrupts
from jaxclear.rules import RULES


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits."""
    try:
        options = _parser().parse_args(arguments)
        command = importlib.import_module(f"jaxclear.commands.{options.command.replace('-', '_')}")
        with insistent_interrupts():
            status = command.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        status = 130
    except BrokenPipeError:
        # What is still buffered has no reader; without this Python complains about it when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except (ValueError, OSError) as error:
        complain(error)
        status = getattr(error, "exit_code", 2)
    except Exception:
        traceback.print_exc()
        status = 70
    sys.exit(status)


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, like all others."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="jaxclear",
        description="Which class a network sees where: CLEAR maps of images, and of crystals by their diffraction.",
        epilog="'jaxclear COMMAND --help' tells the options of a command.",
    )
    parser.add_argument("--version", action="version", version=f"jaxclear {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    _add_demo(commands)
    _add_classify(commands)
    _add_explain(commands)
    _add_map(commands)
    _add_fetch(commands)
    _add_explain_dataset(commands)
    _add_verify(commands)
    _add_report(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[_Parser]") -> None:
    demo = commands.add_parser(
        "demo",
        help="classify and explain real crystals, pristine and damaged; needs nothing",
        description="Elemental crystals that ASE carries, pristine and damaged, named by the shipped network and by "
        "spglib at three tolerances: a table, and pictures of what the network sees. Takes less than a minute.",
    )
    _add_out(demo, "jaxclear-demo")


def _add_classify(commands: "argparse._SubParsersAction[_Parser]") -> None:
    classify = commands.add_parser(
        "classify",
        help="name the crystal class of structure files, and draw why",
        description="The class of each structure (bct139, bct141, hex/rh, sc, fcc, diamond, bcc) by the shipped "
        "network, with the runner-up and what spglib says at its default tolerance, and a picture for each.",
    )
    classify.add_argument(
        "files", nargs="+", metavar="FILE", help="anything ASE or pymatgen reads, with one structure or many"
    )
    _add_out(classify, "jaxclear-classify", "; with --json none are made unless it is given")
    classify.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    classify.add_argument("--no-pictures", action="store_true", help="only classify")
    classify.add_argument(
        "--xyz", type=Path, metavar="FILE", help="also write the structures with their answers as extended xyz"
    )
    classify.add_argument(
        "--orientation",
        choices=("standard", "as-given"),
        default="standard",
        help="find the lattice of each structure, damaged or not, and turn it to its standard cell (default), or keep "
        "its axes",
    )
    classify.add_argument(
        "--workers", type=_positive, metavar="N", help="processes that find lattices (default: one a core for many)"
    )
    _add_rule(classify, "guided")


def _add_explain(commands: "argparse._SubParsersAction[_Parser]") -> None:
    explain = commands.add_parser(
        "explain",
        help="CLEAR map, heat map and coverage of image files for any network",
        description="Draws for each image which class a network sees where, what speaks for and against the predicted "
        "class, and prints what the rule replaced in the network.",
    )
    explain.add_argument("images", nargs="+", metavar="IMAGE", help="anything Pillow reads")
    _add_model(explain)
    _add_out(explain, "jaxclear-explain")


def _add_map(commands: "argparse._SubParsersAction[_Parser]") -> None:
    mapping = commands.add_parser(
        "map",
        help="classes over a big structure: a polycrystal, a film, a molecular dynamics frame",
        description="Classifies regions around the points of a grid and writes the structure as extended xyz with the "
        "class and the confidence of each atom, and a picture of a slice. Regions keep the axes of the file, which the "
        "network expects to be those of the standard cell; --orient recover finds each region's own.",
    )
    mapping.add_argument("file", metavar="FILE", help="anything ASE or pymatgen reads, with any number of atoms")
    mapping.add_argument("--frame", type=int, metavar="N", help="which structure of a file with many; -1 is the last")
    mapping.add_argument("--atoms", type=int, default=200, help="of a region, on average (default 200)")
    mapping.add_argument("--size", type=float, help="edge or diameter of a region instead")
    mapping.add_argument("--stride", type=float, help="distance of the grid's points (default half the size)")
    mapping.add_argument(
        "--unit",
        choices=("d_nn", "A"),
        default="d_nn",
        help="of size and stride: nearest-neighbour distances (default), or Å",
    )
    mapping.add_argument(
        "--shape", choices=("cube", "sphere"), help="of a region (default cube, or sphere where lattices are found)"
    )
    mapping.add_argument(
        "--orient",
        choices=("as-given", "recover"),
        default="as-given",
        help="keep the axes (default), or find each region's lattice",
    )
    mapping.add_argument(
        "--workers", type=_positive, metavar="N", help="processes of --orient recover (default: one a core)"
    )
    mapping.add_argument("--slice", choices=("x", "y", "z"), default="z", help="normal of the picture (default z)")
    _add_out(mapping, "jaxclear-map")


def _add_fetch(commands: "argparse._SubParsersAction[_Parser]") -> None:
    fetch = commands.add_parser(
        "fetch",
        help="structures from a data base that speaks OPTIMADE, as a folder of files to train on",
        description="Writes the structures of a provider that pass a filter to a folder, one CIF file each. The same "
        "command again goes on where the last one stopped.",
    )
    fetch.add_argument(
        "provider",
        metavar="PROVIDER",
        help="aflow, mp, nomad, oqmd, … or the base address of a server, the part before /v1",
    )
    fetch.add_argument(
        "--filter",
        default="nelements=1",
        metavar="FILTER",
        help="in the OPTIMADE language (default nelements=1, elemental solids)",
    )
    fetch.add_argument("--max", type=int, metavar="N", help="structures in the folder at most (default: all)")
    _add_out(fetch, "jaxclear-fetch", what="structures")


def _add_explain_dataset(commands: "argparse._SubParsersAction[_Parser]") -> None:
    dataset = commands.add_parser(
        "explain-dataset",
        help="CLEAR maps of a whole data set, into a zarr store; resumable, on many machines",
        description="Explains every item of a source into a zarr store that zarr, xarray and others open. The same "
        "call again goes on where the last one stopped; under Slurm or Kubernetes every process does its share. Exit "
        "code 1: some items could not be used.",
    )
    dataset.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder of images, where a sub-folder named after a class labels what is in it; .npz with images, "
        "labels and ids; a folder, zip, ASE data base or trajectory of structures; or MODULE:NAME of an object with "
        "__len__ and __getitem__",
    )
    dataset.add_argument("store", type=Path, metavar="STORE", help="folder of the store")
    _add_model(dataset)
    dataset.add_argument(
        "--size", type=_positive, nargs=2, metavar=("H", "W"), help="to resize images to, for a function"
    )
    dataset.add_argument(
        "--kind", choices=("images", "arrays", "structures", "object"), help="of the source, where it is not plain"
    )
    dataset.add_argument("--unit", type=_number_or_auto, default="auto", help="items written and committed at once")
    dataset.add_argument("--batch", type=_number_or_auto, default="auto", help="items a device works on at once")
    dataset.add_argument("--rank", type=int, help="number of this process from 0, where no scheduler tells it")
    dataset.add_argument("--world", type=int, help="number of processes")
    dataset.add_argument("--workers", type=int, metavar="N", help="threads or processes that read ahead")
    dataset.add_argument(
        "--cpu-devices", type=_positive, metavar="N", help="where there is no accelerator (default: one a core)"
    )
    dataset.add_argument("--fail-fast", action="store_true", help="end at the first item that cannot be used")
    dataset.add_argument("--retry-failed", action="store_true", help="do units with failures again")
    dataset.add_argument(
        "--overwrite", action="store_true", help="replace a store of another model, rule, source or version"
    )
    dataset.add_argument("--log", type=Path, metavar="FILE", help="append a JSON line a unit to this file")
    dataset.add_argument("--no-cache", action="store_true", help="keep no compiled programs in the cache folder")


def _add_verify(commands: "argparse._SubParsersAction[_Parser]") -> None:
    verify = commands.add_parser(
        "verify",
        help="prove that a store of explain-dataset is complete and undamaged",
        description="Reads every file of a store and compares its SHA-256. Exit code 1: something is missing or "
        "damaged.",
    )
    verify.add_argument("store", type=Path, metavar="STORE")
    verify.add_argument(
        "--repair", action="store_true", help="take damaged units back, to be done again by the next run"
    )


def _add_report(commands: "argparse._SubParsersAction[_Parser]") -> None:
    report = commands.add_parser(
        "report",
        help="a store of explain-dataset as one HTML file",
        description="Writes counts, confusion matrix, shares of pixels and a gallery with filters to one file that a "
        "browser opens from disk. Images and the maps of single classes are made from the source of the store.",
    )
    report.add_argument("store", type=Path, metavar="STORE")
    report.add_argument("--out", type=Path, metavar="FILE", help="the file (default ./NAME_OF_STORE.html)")
    report.add_argument("--items", type=_positive, default=1000, help="items in the gallery at most (default 1000)")
    report.add_argument("--title", help="of the page")
    report.add_argument("--no-source", action="store_true", help="do without the source: no images, no single classes")


def _number_or_auto(text: str) -> int | str:
    return text if text == "auto" else _positive(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _add_out(command: argparse.ArgumentParser, default: str, more: str = "", *, what: str = "pictures") -> None:
    command.add_argument("--out", type=Path, metavar="DIR", help=f"folder for the {what} (default ./{default}{more})")
    command.set_defaults(default_out=Path(default))


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model",
        required=True,
        metavar="NAME|MODULE:FUNCTION",
        help="a published network (mnist, svhn, crystal, …); or an importable function apply(variables, images), which "
        "takes float32 images (B, H, W, C) in [0, 1] and returns class maps or logits",
    )
    command.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="safetensors as jaxclear.models.save_weights writes them; if left out, the shipped ones, or for a "
        "function none",
    )
    _add_rule(command, None)
    command.add_argument("--classes", metavar="A,B,…", help="names of the classes, separated by commas")
    command.add_argument(
        "--channels", type=int, choices=(1, 3), default=3, help="of the images for a function (default 3)"
    )


def _add_rule(command: argparse.ArgumentParser, default: str | None) -> None:
    command.add_argument(
        "--rule",
        choices=tuple(RULES),
        default=default,
        help="how responses pass back through ReLUs "
        f"(default {default or 'deconvnet; guided for the crystal network'})",
    )
