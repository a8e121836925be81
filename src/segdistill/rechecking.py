"""The second half of the verb `verify`: what a certificate says is computed once more, and compared."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.config.naming import setting
from segdistill.config.verify import VerifyConfig
from segdistill.console import counted, log
from segdistill.data.digest import data_digest
from segdistill.data.samples import FileSamples
from segdistill.files import read_json
from segdistill.models.identity import weight_digests
from segdistill.models.spec import require_trust
from segdistill.models.trained import TrainedNetwork
from segdistill.reporting.tables import SCORE_TITLES
from segdistill.verification import (
    KIND,
    SCORES,
    Compared,
    Record,
    certify,
    open_images,
    open_networks,
    run_networks,
)

TOLERANCE = 1e-4
"""Largest difference of a score, as a fraction, that another machine or version may make: 0.01 points."""


REMEDY = "copy it again, or make a new certificate with `segdistill verify FILE --against RUN`"
"""What to do about a damaged file."""


@dataclass(frozen=True, kw_only=True)
class CertifiedNetwork:
    """What a certificate says of one network.

    Attributes:
        target: what named it.
        sha256: of its files, by name.
        scores: by name, as fractions; None for what could not be computed.
    """

    target: str
    sha256: dict[str, str]
    scores: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """A certificate that was read.

    Attributes:
        path: of the JSON file.
        networks: the baseline, and the one that is certified.
        image_count, data_sha256: of the images and masks.
        equal_pixels: fraction of the pixels with one class in both.
        shown, verdict: whether it shows what it is about, and its text.
        settings: it was made with.
    """

    path: Path
    networks: tuple[CertifiedNetwork, CertifiedNetwork]
    image_count: int
    data_sha256: str
    equal_pixels: float
    shown: bool
    verdict: str
    settings: VerifyConfig


def verify_again(certificate: Path, config: VerifyConfig, target: str | None = None) -> Record:
    """Run what a certificate is about once more, and compare: files, data, scores and verdict.

    Sizes and other settings are those of the certificate. Networks and data are looked for where it says; a
    file that is not there, also beside the certificate.

    Args:
        certificate: the JSON file.
        config: `against` and `data`, where they are elsewhere now; nothing else of it counts.
        target: the network that was certified, where it is elsewhere now.

    Returns:
        `certificate`, `verdict` (of now), `mismatches` in words, `networks` with their `miou` `then` and
        `now`, and `problems`: how many mismatches there are, and 1 where nothing is shown.

    Raises:
        FileNotFoundError: a file or folder is not there any more.
        ValueError: it is no certificate, or one of other images or of other weights.
    """
    then = read_certificate(certificate)
    first, second = (network.target for network in then.networks)
    specs = (config.against or _found(first, certificate), target or _found(second, certificate))
    data = config.data if config.data.root else then.settings.data
    config = replace(then.settings, against=config.against, data=data)
    samples = open_images(specs, config)
    log(f"Comparing {specs[1]} with {specs[0]} again on {counted(len(samples), 'image')}, see {certificate}")
    networks = open_networks(specs, samples, config)
    _require_same_data(then, samples)
    _require_same_weights(then, specs, networks)
    pair = run_networks(networks, samples, config)
    now = certify(Compared(specs=specs, networks=networks, pair=pair), config)
    mismatches = list(_mismatches(then, now))
    return {
        "certificate": str(certificate),
        "verdict": now["verdict"],
        "mismatches": mismatches,
        "networks": [
            {"target": new["target"], "then": old.scores["miou"], "now": new["miou"]["value"]}
            for old, new in zip(then.networks, now["networks"], strict=True)
        ],
        "problems": len(mismatches) + (not now["verdict"]["shown"]),
    }


def read_certificate(path: Path) -> Certificate:
    """What a certificate says.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, or is damaged.
    """
    try:
        content = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}: {REMEDY}") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ValueError(f"{path} is no certificate of `segdistill verify` ({KIND!r})")
    try:
        against, target = content["networks"]
        return Certificate(
            path=path,
            networks=(_read_network(against), _read_network(target)),
            image_count=content["image_count"],
            data_sha256=str(content["data_sha256"]),
            equal_pixels=float(content["equal_pixels"]),
            shown=content["verdict"]["shown"],
            verdict=content["verdict"]["text"],
            settings=_read_settings(content["settings"], against, target),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}): {REMEDY}") from None


def _read_network(record: Record) -> CertifiedNetwork:
    scores = {name: record[name]["value"] for name in SCORES}
    return CertifiedNetwork(
        target=str(record["target"]),
        sha256=dict(record["sha256"]),
        scores={name: None if value is None else float(value) for name, value in scores.items()},
    )


def _read_settings(record: Record, against: Record, target: Record) -> VerifyConfig:
    """The settings, with what both networks were run with; latency is not measured again."""
    settings = dict(record)
    data = EvaluationDataConfig(**settings.pop("data"))
    settings |= {name: [target[name], against[name]] for name in ("size", "output_stride")}
    return VerifyConfig(**settings | {"repeats": 0}, data=data)


def _found(spec: str, certificate: Path) -> str:
    """A network that a certificate names; a file of that name beside it, where it is not in its place.

    Raises:
        ValueError: it is code that is not trusted yet.
    """
    require_trust(spec, certificate)
    beside = certificate.parent / Path(spec).name
    return str(beside) if not Path(spec).exists() and beside.exists() else spec


def _require_same_data(then: Certificate, samples: FileSamples) -> None:
    """Raise a `ValueError` unless the images and masks are those of the certificate."""
    digest = data_digest(samples)
    if digest != then.data_sha256:
        raise ValueError(
            f"{then.path} is about other data: {then.image_count} images with SHA-256 "
            f"{then.data_sha256[:12]}…, but here are {len(samples)} with {digest[:12]}…; "
            f"name its images with {setting('data.root')} and {setting('data.split')}"
        )


def _require_same_weights(
    then: Certificate, specs: tuple[str, str], networks: tuple[TrainedNetwork, TrainedNetwork]
) -> None:
    """Raise a `ValueError` unless both networks have the weights of the certificate."""
    for old, spec, network in zip(then.networks, specs, networks, strict=True):
        found = weight_digests(spec, network)
        if len(found) != len(old.sha256):
            raise ValueError(
                f"{then.path} is about another {spec}: it was {' and '.join(old.sha256)}, but is "
                f"{' and '.join(found)} now; make a new certificate"
            )
        for (name, digest), value in zip(old.sha256.items(), found.values(), strict=True):
            if digest != value:
                raise ValueError(
                    f"{then.path} is about another {spec}: {name} had the SHA-256 {digest[:12]}…, but has "
                    f"{value[:12]}… now; make a new certificate"
                )


def _mismatches(then: Certificate, now: Record) -> Iterator[str]:
    """What a network does now that its certificate does not say, in words."""
    for old, new in zip(then.networks, now["networks"], strict=True):
        for name, before in old.scores.items():
            after = new[name]["value"]
            if (before is None) != (after is None) or abs((before or 0) - (after or 0)) > TOLERANCE:
                yield f"{SCORE_TITLES[name]} of {new['target']} was {before}, but is {after}"
    if abs(then.equal_pixels - now["equal_pixels"]) > TOLERANCE:
        yield f"the fraction of equal pixels was {then.equal_pixels}, but is {now['equal_pixels']}"
    if then.shown != now["verdict"]["shown"]:
        yield f"the verdict was {then.verdict!r}"
