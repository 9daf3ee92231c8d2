"""The files that follow from declarations: JSON schemas and the types of bounds. `make schemas` writes them anew."""

from importlib.resources import files

from bound_types import bounds_text

from pytest_cp.report import schema as report
from pytest_cp.specification import schema as specification

SCHEMAS = {
    ("pytest_cp.assertions", "bounds.py"): bounds_text,
    ("pytest_cp.specification", "schema.json"): specification.schema_text,
    ("pytest_cp.report", "document.schema.json"): report.schema_text,
}


def assert_published(package: str, name: str) -> None:
    """Fail if a file is not what the code makes now."""
    published = files(package).joinpath(name).read_text(encoding="utf-8")
    made = SCHEMAS[package, name]()
    assert published == made, f"{package}/{name} is not what the code makes now: run `make schemas` and commit it"


if __name__ == "__main__":
    for (package, name), text in SCHEMAS.items():
        path = files(package).joinpath(name)
        path.write_text(text(), encoding="utf-8")
        print(path)
