"""The second half of the verb `verify`: what a certificate says is computed once more, and compared."""

from collections.abc import Iterator
from pathlib import Path

from segdistill.config.evaluate import EvaluationDataConfig
from segdistill.config.verify import VerifyConfig
from segdistill.data.digest import data_digest
from segdistill.data.samples import FileSamples
from segdistill.files import read_json
from segdistill.models.identity import weight_digests
from segdistill.models.spec import require_trust
from segdistill.models.trained import TrainedNetwork
from segdistill.reporting.tables import SCORES as SCORE_TITLES
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
    config = _settings_of(then, config)
    first, second = (network["target"] for network in then["networks"])
    specs = (config.against or _found(first, certificate), target or _found(second, certificate))
    samples = open_images(specs, config)
    _require_same_data(then, samples, certificate)
    networks = open_networks(specs, samples.labels, config)
    _require_same_weights(then, specs, networks, certificate)
    pair = run_networks(networks, samples, config)
    now = certify(Compared(specs=specs, networks=networks, pair=pair), config)
    mismatches = list(_mismatches(then, now))
    return {
        "certificate": str(certificate),
        "verdict": now["verdict"],
        "mismatches": mismatches,
        "networks": [
            {"target": new["target"], "then": old["miou"]["value"], "now": new["miou"]["value"]}
            for old, new in zip(then["networks"], now["networks"], strict=True)
        ],
        "problems": len(mismatches) + (not now["verdict"]["shown"]),
    }


def read_certificate(path: Path) -> Record:
    """The content of a certificate.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise ValueError(f"{path} is no certificate of `segdistill verify` ({KIND!r})")
    return content


def _settings_of(then: Record, config: VerifyConfig) -> VerifyConfig:
    """The settings of a certificate, with the places that `config` names; latency is not measured again."""
    try:
        settings = dict(then["settings"])
        data = EvaluationDataConfig(**settings.pop("data"))
        against, target = then["networks"]
        settings |= {name: [target[name], against[name]] for name in ("size", "output_stride")}
        settings |= {"against": config.against, "repeats": 0}
        return VerifyConfig(**settings, data=config.data if config.data.root else data)
    except (LookupError, TypeError) as error:
        raise ValueError(f"the certificate is damaged: {type(error).__name__} {error}") from None


def _found(spec: str, certificate: Path) -> str:
    """A network that a certificate names; a file of that name beside it, where it is not in its place.

    Raises:
        ValueError: it is code that nobody has said to trust.
    """
    require_trust(spec, certificate)
    beside = certificate.parent / Path(spec).name
    return str(beside) if not Path(spec).exists() and beside.exists() else spec


def _require_same_data(then: Record, samples: FileSamples, certificate: Path) -> None:
    """Raise a `ValueError` unless the images and masks are those of the certificate."""
    digest = data_digest(samples)
    if digest != then["data_sha256"]:
        raise ValueError(
            f"{certificate} is about other data: {then['image_count']} images with SHA-256 "
            f"{then['data_sha256'][:12]}…, but here are {len(samples)} with {digest[:12]}…; "
            "name its images with --data.root and --data.split"
        )


def _require_same_weights(
    then: Record,
    specs: tuple[str, str],
    networks: tuple[TrainedNetwork, TrainedNetwork],
    certificate: Path,
) -> None:
    """Raise a `ValueError` unless both networks have the weights of the certificate."""
    for old, spec, network in zip(then["networks"], specs, networks, strict=True):
        found = weight_digests(spec, network)
        for (name, digest), value in zip(old["sha256"].items(), found.values(), strict=True):
            if digest != value:
                raise ValueError(
                    f"{certificate} is about another {spec}: {name} had the SHA-256 {digest[:12]}…, but has "
                    f"{value[:12]}… now; make a new certificate"
                )


def _mismatches(then: Record, now: Record) -> Iterator[str]:
    """What a network does now that its certificate does not say, in words."""
    for old, new in zip(then["networks"], now["networks"], strict=True):
        for name in SCORES:
            before, after = old[name]["value"], new[name]["value"]
            if (before is None) != (after is None) or abs((before or 0) - (after or 0)) > TOLERANCE:
                yield f"{SCORE_TITLES[name]} of {new['target']} was {before}, but is {after}"
    before, after = then["equal_pixels"], now["equal_pixels"]
    if abs(before - after) > TOLERANCE:
        yield f"the fraction of equal pixels was {before}, but is {after}"
    if then["verdict"]["shown"] != now["verdict"]["shown"]:
        yield f"the verdict was {then['verdict']['text']!r}"
