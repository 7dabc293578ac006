"""The tables of the catalogue: packages, their releases and files, and who may change them."""

from playbook.schema.catalog import NO_RANK, File, Package, PackageRole, Release, load_catalog

__all__ = ["NO_RANK", "File", "Package", "PackageRole", "Release", "load_catalog"]
