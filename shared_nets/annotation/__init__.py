"""The bundles in MONAI Label: an app folder for its server, and which scan to annotate next."""

from shared_nets.annotation.prepare import prepare_app

__all__ = ["prepare_app"]
