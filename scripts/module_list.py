"""Write the picture of packages and the list of modules in docs/design.rst.

    python3 scripts/module_list.py

The picture is the one that ``test_architecture`` proves; the list has the first sentence of each
module's docstring, by package, in the order of the picture.  The tests compare both with the files.
"""

import ast
import glob
import os
import re
import sys
import textwrap

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(ROOT, "docs", "design.rst")
PACKAGE = "minisocks"
PARTS = {
    name: re.compile(r"(\.\. %s begin\n).*?(\.\. %s end)" % (name, name), re.S)
    for name in ("layers", "modules")
}


def layers(root=ROOT):
    """Return the lines of the picture, which is in the test, each as a list of names."""
    pattern = os.path.join(root, "tests", "**", "test_architecture.py")
    (path,) = glob.glob(pattern, recursive=True)
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "LAYERS":
            return [line.split() for line in ast.literal_eval(node.value).strip().split("\n")]
    raise SystemExit("module_list: %s has no LAYERS" % path)


def first_sentences(root=ROOT):
    """Return the first sentence of each module's docstring, by the module's name with its packages.

    An empty file has none: that is the ``__init__`` of a package.
    """
    found = {}
    for path in glob.glob(os.path.join(root, PACKAGE, "**", "*.py"), recursive=True):
        name = os.path.relpath(path, os.path.join(root, PACKAGE))[: -len(".py")]
        with open(path, encoding="utf-8") as file:
            source = file.read()
        if source:
            docstring = ast.get_docstring(ast.parse(source)) or ""
            first = " ".join(docstring.partition("\n\n")[0].split("\n"))
            found[name.replace(os.sep, ".")] = first.partition(".  ")[0].rstrip(".") + "."
    return found


def module_list(root=ROOT):
    """Return the list of modules."""
    order = [name for line in layers(root) for name in line]
    sentences = first_sentences(root)
    packages = {}
    for module in sorted(sentences):
        package, dot, _ = module.partition(".")
        packages.setdefault(package if dot else "", []).append(module)
    unknown = sorted(set(packages) - set(order) - {""})
    if unknown:
        raise SystemExit("module_list: not in the picture of packages: %s" % ", ".join(unknown))
    # Modules in no package come first.
    packages.get("", []).sort(key=lambda name: order.index(name) if name in order else -1)
    parts = []
    for package in sorted(packages, key=lambda name: order.index(name) if name else -1):
        parts.append("``%s/``\n" % (package or PACKAGE))
        for module in packages[package]:
            text = "* ``%s``: %s" % (module.rpartition(".")[2], sentences[module])
            parts.append(
                textwrap.fill(text, 98, subsequent_indent="  ", break_on_hyphens=False) + "\n"
            )
        parts.append("")
    return re.sub(r"(?m)(^(?:\* |  ).*\n)\n(?=\* )", r"\1", "\n".join(parts))


def page(text, root=ROOT):
    """Return the *text* of the page with the picture and the list for the files in it."""
    picture = "".join("    %s\n" % " ".join(line) for line in layers(root))
    for name, part in (("layers", "::\n\n%s\n" % picture), ("modules", module_list(root))):
        whole = r"\g<1>\n%s\g<2>" % part.replace("\\", r"\\")
        text = PARTS[name].sub(whole, text)
    return text


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    with open(PAGE, encoding="utf-8") as old:
        written = page(old.read())
    with open(PAGE, "w", encoding="utf-8") as new:
        new.write(written)
