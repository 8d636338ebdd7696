"""What the manager's work is made of: each service with what it needs, and nothing that it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .config import ModelManagerConfig, parse_duration
from .host import Host, ModelFile
from .lazily import made_once
from .library import Library
from .marks import Marks
from .model import FOLDER_TYPES
from .monitor import Monitor, loaded_as
from .pool import Keeper, ModelPool
from .registry import Registry
from .units import GB

if TYPE_CHECKING:
    from .again import FetchAgain
    from .catalogue import Catalogue, Places
    from .check_options import CheckOptions
    from .checking import Checking
    from .compatibility import CompatibilityReport, ModelCompatibilityChecker
    from .download.service import Downloads
    from .duplicates import Duplicates
    from .first_use import FirstUse
    from .forecast.advisor import Forecaster
    from .forecast.footprints import Footprints
    from .integrity import Integrity
    from .loading import Loader
    from .needs.service import Needs
    from .pairs import Pairing
    from .quantize.service import Quantizer
    from .remote.check import AddressChecker
    from .scan.service import Scanner
    from .variants.service import Variants
    from .verifier import Verifier
    from .versions import ModelVersionManager
    from .versions.service import Versioning


class Services:
    """The services over one host and one registry.

    Args:
        config: settings.
        host: the machine; the bare one, with ``config.model_roots``, when None.
        registry: what is known; the one at ``config.database_url`` when None.
        defer: runs registry writes that nobody waits for.
    """

    def __init__(
        self,
        config: ModelManagerConfig,
        host: Host | None,
        registry: Registry | None,
        defer: Callable[[Callable[[], None]], None],
    ) -> None:
        self.config = config
        self.host: Host = host or _bare_machine(config)
        self.registry = registry or Registry(config.database_url)
        self.library = Library(self.host, self.registry, defer)
        self._defer = defer
        self.pool = ModelPool(
            self.host,
            keep_alive=parse_duration(config.keep_alive),
            ram_budget=in_bytes(config.max_ram_gb),
            vram_reserve=in_bytes(config.vram_reserve_gb),
        )
        self.marks = Marks(self.pool, self.registry, defer)
        self.keeper = Keeper(self.pool)
        self.monitor = Monitor(
            self.host,
            self.pool,
            self.registry,
            defer,
            config.monitor_interval_seconds,
            lambda model: self.pool.options_of(model.id) or loaded_as(model),
        )
        # ComfyUI's adapter and the command line put their own in place.
        self.find_places: Callable[[], Places] | None = None

    # Services that ComfyUI's start need not wait for: imported and made when they are asked for first.

    @made_once
    def versions(self) -> ModelVersionManager:
        """Puts versions in order."""
        from .versions import ModelVersionManager

        return ModelVersionManager(self.registry)

    @made_once
    def checker(self) -> ModelCompatibilityChecker:
        """Judges a model by itself."""
        from .compatibility import ModelCompatibilityChecker

        return ModelCompatibilityChecker(self.host, self.library.identity)

    @made_once
    def versioning(self) -> Versioning:
        """Knows versions as this machine sees them."""
        from .versions.service import Versioning

        return Versioning(self.registry, self.library, self.checker)

    @made_once
    def _footprints(self) -> Footprints:
        from .forecast.footprints import Footprints

        return Footprints(self.host)

    @made_once
    def variants(self) -> Variants:
        """Knows what else there is of a model."""
        from .variants.service import Variants

        return Variants(self.host, self.library, self.registry, self._reserve, self._footprints)

    @made_once
    def _forecaster(self) -> Forecaster:
        from .forecast.advisor import Forecaster

        return Forecaster(self.host, self.registry, self._reserve, self._footprints)

    @made_once
    def pairing(self) -> Pairing:
        """Says which files belong together."""
        from .pairs import Pairing

        return Pairing(self.library)

    @made_once
    def integrity(self) -> Integrity:
        """Says whether files are whole."""
        from .integrity import Integrity

        return Integrity(self.registry, self.library.info_of)

    @made_once
    def checking(self) -> Checking:
        """Judges a model for a purpose."""
        from .checking import Checking

        return Checking(
            self.checker, [self._forecaster, self.pairing, self.variants, self.versioning, self.integrity]
        )

    @made_once
    def addresses(self) -> AddressChecker:
        """Judges models that are not here."""
        from .remote.check import AddressChecker

        return AddressChecker(self.host, self.checker, self.checking)

    @made_once
    def loader(self) -> Loader:
        """Loads models through the pool."""
        from .loading import Loader

        return Loader(
            self.host,
            self.library,
            self.checker,
            self.pool,
            self.variants,
            self.versioning.about,
            self.integrity.problem,
            self.marks.used,
        )

    @made_once
    def catalogue(self) -> Catalogue:
        """Where models can be had."""
        from .catalogue.service import Catalogue, Places

        return Catalogue(places=self.find_places() if self.find_places else Places())

    @made_once
    def needs(self) -> Needs:
        """What workflows need."""
        from .needs.service import Needs

        return Needs(
            self.host,
            self.library,
            self.registry,
            self.catalogue,
            self.check_file,
            lambda address: self.addresses.check(address),
            lambda: self.config.allowed_hosts,
        )

    @made_once
    def scanner(self) -> Scanner:
        """Holds the registry against the disk."""
        from .scan.service import Scanner

        return Scanner(self.host, self.registry, self.marks.follow)

    @made_once
    def verifier(self) -> Verifier:
        """Verifies files in the background."""
        from .verifier import Verifier

        return Verifier(self.host, self.integrity)

    @made_once
    def duplicates(self) -> Duplicates:
        """Finds equal files."""
        from .duplicates import Duplicates

        return Duplicates(self.registry)

    @made_once
    def quantizer(self) -> Quantizer:
        """Makes smaller variants."""
        from .quantize.record import Record
        from .quantize.service import Quantizer

        return Quantizer(
            self.library.identity,
            self.host,
            lambda: self.host.system().layer_formats,
            lambda path: self._forecaster.file_room(path, self.library.identity(path)),
            lambda: self.host.system().device,
            Record(self.registry, self._defer).made,
        )

    @made_once
    def again(self) -> FetchAgain:
        """Fetches damaged files once more."""
        from .again import FetchAgain

        return FetchAgain(self.library, self.registry, self.catalogue, lambda: self.downloads)

    @made_once
    def downloads(self) -> Downloads:
        """Gets files."""
        from .download.arrival import Arrivals
        from .download.service import Downloads

        return Downloads(
            self.host,
            lambda: self.config.max_parallel_downloads,
            lambda: self.config.allowed_hosts,
            self.again.recording(Arrivals(self.library, self.registry, self._defer).record),
        )

    @made_once
    def first_use(self) -> FirstUse:
        """Finds models, and brings those that are absent where that is allowed."""
        from .first_use import FirstUse

        return FirstUse(
            self.host, self.library, self.needs, self.downloads, lambda: self.config.auto_download
        )

    def check_file(self, file: ModelFile, options: CheckOptions | None = None) -> CompatibilityReport:
        """Return the full verdict on a file, with what was registered for it.

        Raises:
            ModelNotFound: it is not there.
        """
        known = self.library.info_of(file.path)
        return self.checking.check_file(file.name, file.path, FOLDER_TYPES.get(file.folder), known, options)

    def _reserve(self) -> int | None:
        return in_bytes(self.config.vram_reserve_gb)


def in_bytes(gigabytes: float | None) -> int | None:
    """Return so many bytes; None stays None."""
    return None if gigabytes is None else int(gigabytes * GB)


def _bare_machine(config: ModelManagerConfig) -> Host:
    from .local_host import LocalHost

    return LocalHost([Path(root) for root in config.model_roots])
