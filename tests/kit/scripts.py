"""What tests have of scripts/."""

import importlib.util
import os

from kit.support import ROOT


def script_module(name):
    """Return the module *name* of scripts/, which is no package."""
    path = os.path.join(ROOT, "scripts", name + ".py")
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
