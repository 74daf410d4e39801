"""Write docs/reference/recipe.md from config.py, so that the page cannot fall behind.

python docs/make_recipe_reference.py
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "recipe.md"
CONFIG = ROOT / "src" / "gleanseg" / "config.py"
TABLES = {
    "data": "DataConfig",
    "prepare": "PrepareConfig",
    "sampling": "SamplingConfig",
    "augment": "AugmentConfig",
    "optimizer": "OptimizerConfig",
    "train": "TrainConfig",
    "presence": "PresenceConfig",
    "text": "TextConfig",
    "predict": "PredictConfig",
    "[stage]": "StageConfig",
}
HEAD = """\
# Recipe

One TOML file fixes one run completely. Only `manifest` is required; an unknown key is an error that names the nearest.
Sizes and spacings are x, y, z. Any key can be set on the command line: `--override optimizer.lr=0.01`.

`[network]`, `[head]` and `[method]` hold a `name`, the file's name in `gleanseg/networks`, `gleanseg/networks/heads` or
`gleanseg/methods`, and the options of that [network](networks.md), [head](networks.md#heads) or
[method](../methods/README.md). `gleanseg train` writes the resolved recipe into the run folder.

This page is made from `config.py` by `python docs/make_recipe_reference.py`.
"""


def page() -> str:
    """The whole page."""
    classes = {n.name: n for n in ast.parse(CONFIG.read_text()).body if isinstance(n, ast.ClassDef)}
    parts = [HEAD, section("top level", classes["Recipe"], skip=(*TABLES, "network", "head", "method", "stage"))]
    parts += [section(f"[{table}]", classes[name]) for table, name in TABLES.items()]
    return "\n".join(parts)


def section(title: str, cls: ast.ClassDef, *, skip: tuple[str, ...] = ()) -> str:
    """A table of one class's fields."""
    about = " ".join((ast.get_docstring(cls) or "").split())
    rows = [f"## {title}\n", f"{about}\n", "| key | type | default | meaning |", "|---|---|---|---|"]
    for node, after in zip(cls.body, [*cls.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id not in skip:
            meaning = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            default = f"`{ast.unparse(node.value)}`" if node.value else "required"
            kind = ast.unparse(node.annotation).replace("|", "\\|")
            rows.append(f"| `{node.target.id}` | `{kind}` | {default} | {' '.join(str(meaning).split())} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
