"""The data sets of `lightning_avb.datamodules` under a shorter name, where no other `datamodules` stands before it.

The files of this folder are the modules of `lightning_avb.datamodules`. They are loaded under that name alone, so that
there is one copy of every class; here they have a second name. A project may have a plain folder `datamodules` with
files of its own: they are found beside ours, and before one of ours with the same name.
"""

import sys
from importlib.machinery import PathFinder
from pathlib import Path
from pkgutil import extend_path

from lightning_avb.datamodules import *  # noqa: F403
from lightning_avb.datamodules import __all__ as __all__

_folders: list[str] = list(extend_path([], __name__))
__path__ = [folder for folder in _folders if not Path(folder, "__init__.py").exists()]

for _name, _module in list(sys.modules.items()):
    _parent, _, _child = _name.rpartition(".")
    if _parent == "lightning_avb.datamodules" and PathFinder.find_spec(_child, __path__) is None:
        sys.modules[f"{__name__}.{_child}"] = globals()[_child] = _module
