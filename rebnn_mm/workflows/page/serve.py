"""From a command line to the running page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image

from rebnn_mm.deploy.file.container import read_file
from rebnn_mm.deploy.load import load_model
from rebnn_mm.errors import UserError
from rebnn_mm.integrations.checkpoint import is_packed_file
from rebnn_mm.workflows.page.looker import Looker, PlainLooker
from rebnn_mm.workflows.page.server import Facts, PageServer, is_loopback


def make_server(model: Sequence[str | Path], host: str = "127.0.0.1", port: int = 8000) -> PageServer:
    """The page of a packed file, or of a config and a checkpoint; it listens, and serves when :func:`serve` is called.

    Args:
        model: ``[file.rebnn]`` or ``[config, checkpoint]``.
        host: Address to listen at.
        port: 0 takes a free one.

    Raises:
        UserError: Another number of names, a model that cannot be shown, a port that is taken.
    """
    if len(model) not in (1, 2):
        raise UserError(f"demo takes a packed file, or a config and a checkpoint, and got {len(model)} names")
    if len(model) == 1 and not is_packed_file(model[0]):
        raise UserError(f"{model[0]} is no packed file: give MODEL.rebnn, or CONFIG CHECKPOINT")
    looker = open_looker(model)
    return PageServer(looker, facts_of(Path(model[-1]), looker), host, port)


def open_looker(model: Sequence[str | Path]) -> Looker:
    """The model behind the page, called once: what a model does only once shall not be timed with the first picture.

    A packed file without a config needs torch and Pillow only.

    Raises:
        UserError: The model cannot be loaded or shown.
    """
    if len(model) == 1 and not isinstance(read_file(model[0]).info.get("config"), dict):
        looker: Looker = PlainLooker(load_model(model[0]))
    else:
        from rebnn_mm.integrations.build import read_config
        from rebnn_mm.workflows.inference import Inferencer, packed_config
        from rebnn_mm.workflows.page.library import LibraryLooker

        cfg = packed_config(model[0]) if len(model) == 1 else read_config(model[0])
        looker = LibraryLooker(Inferencer(cfg, model[-1]))
    with TemporaryDirectory() as folder:
        grey = Path(folder, "grey.png")
        Image.new("RGB", (320, 240), "grey").save(grey)
        looker.look(grey)
    return looker


def facts_of(path: Path, looker: Looker) -> Facts:
    """What the page says about a model's file."""
    threads = torch.get_num_threads()
    parts = [
        looker.kind,
        *([f"{looker.classes} classes"] if looker.classes else []),
        f"{path.stat().st_size / 1e6:.2f} MB",
        f"{threads} thread{'s' if threads > 1 else ''}",
    ]
    return Facts(path.name, ", ".join(parts))


def serve(server: PageServer) -> None:
    """Serve until Ctrl-C, and say on screen where the page is."""
    if not is_loopback(server.host):
        print(
            f"warning: --host {server.host} lets everybody who reaches this machine's port send pictures to the "
            "model, without a password and unencrypted"
        )
    print(f"{server.facts.name}: {server.facts.text}\nopen {server.url}   (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nthe page is closed")
    finally:
        server.server_close()
