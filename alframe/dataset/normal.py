"""Which classes are normal: named by the user, known to the dataset, or guessed from well-known words in class names."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

from alframe.errors import did_you_mean, expect
from alframe.images import Data

Normal = str | int | list[str | int] | None
"""The option `dataset.normal`: a class, several, "guess", or null (what the dataset knows, else unknown)."""
GUESS = "guess"


def _normalised(text: str) -> str:
    """Words in lower case without accents, separated by single spaces: 'MT_Free' -> 'mt free', 'n.i.O.' -> 'n i o'."""
    letters = unicodedata.normalize("NFKD", text)
    letters = "".join(c for c in letters if not unicodedata.combining(c)).casefold()
    return " ".join(re.findall(r"[^\W\d_]+", letters))


def _words(text: str) -> frozenset[str]:
    return frozenset(_normalised(word) for word in text.split(","))


NORMAL = _words(
    "ok, okay, good, normal, pass, passed, fine, clean, intact, healthy, flawless, undamaged, "
    "acceptable, accepted, conforming, conform, compliant, nondefective, defectfree, gut, gutteil, gutteile, io, "
    "in ordnung, fehlerfrei, einwandfrei, mangelfrei, intakt, unbeschädigt, bon, bonne, bons, bien, sain, conforme, "
    "conformes, normale, bueno, buena, buenos, sano, correcto, buono, buona, buoni, integro, bom, boa, goed, "
    "goedgekeurd, dobry, dobra, prawidłowy, godkänd, норма, норм, годен, годный, 良, 良品, 良好, 正常, 正常品, 合格, 合格品, "
    "好, 정상, 양품, 양호"
)
DEFECT = _words(
    "ng, nok, notok, ko, nio, nogood, bad, defect, defects, defective, defectives, defected, fail, fails, failed, failure, "
    "faulty, fault, faults, reject, rejects, rejected, anomaly, anomalies, anomalous, abnormal, scrap, damage, damaged, "
    "broken, unacceptable, nonconforming, noncompliant, flaw, flaws, flawed, fehler, fehlerhaft, defekt, defekte, schlecht, "
    "schlechtteil, schlechtteile, ausschuss, mangel, mangelhaft, beschädigt, anomalie, anomalien, mauvais, mauvaise, "
    "défaut, défauts, défectueux, défectueuse, rebut, malo, mala, defecto, defectos, defectuoso, defectuosa, rechazado, "
    "anomalía, difetto, difetti, difettoso, difettosa, scarto, scarti, anomalia, defeito, defeitos, defeituoso, ruim, "
    "slecht, afgekeurd, wada, wady, wadliwy, zły, underkänd, брак, дефект, дефекты, 不良, 不良品, 不合格, 不合格品, "
    "欠陥, 欠陥品, 異常, 异常, 缺陷, 次品, 불량, 불량품, 결함"
)
ABSENCE = _words("free, frei")
"""Normal alone ('MT_Free') and with the defect that is absent ('defect free')."""
NOT = _words("no, not, non, without, nicht, kein, keine, ohne, pas, sans, sin, senza, niet, geen, zonder")
PHRASES = {
    "n i o": "nio",
    "i o": "io",
    "in ordnung": "io",
    "n ok": "nok",
    "n g": "ng",
    "free of": "free",
    "free from": "free",
}


def verdicts_on(name: str) -> set[bool]:
    """What well-known words call a class: normal (True), a defect (False), nothing, or both."""
    return _judged(name) or _judged(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))  # NoDefect


def _judged(name: str) -> set[bool]:
    padded = f" {_normalised(name)} "
    for phrase, word in PHRASES.items():
        padded = padded.replace(f" {phrase} ", f" {word} ")
    words = padded.split()
    verdicts = {word in NORMAL for word in words if word in NORMAL | DEFECT}
    if any(word in ABSENCE for word in words):
        verdicts = {True} if verdicts <= {False} else verdicts
    negated = sum(word in NOT for word in words) % 2 == 1
    return {verdict != negated for verdict in verdicts}


def guessed(classes: Sequence[str]) -> tuple[int, ...] | None:
    """The normal classes by their names, or None if the names do not decide.

    They decide if some but not all have a normal word and none contradicts itself; of two classes one defect word is enough.
    """
    verdicts = [verdicts_on(name) for name in classes]
    normal = tuple(c for c, verdict in enumerate(verdicts) if True in verdict)
    if not normal and len(classes) == 2 and verdicts.count({False}) == 1:
        normal = (1 - verdicts.index({False}),)
    decided = 0 < len(normal) < len(classes) and all(len(verdict) < 2 for verdict in verdicts)
    return normal if decided else None


def with_normal(data: Data, option: Normal, known: tuple[int, ...] | None = None) -> Data:
    """The data with its normal classes: those of the option, else those that the dataset knows.

    Raises ConfigError for a name that is none of the classes, and if no class is left as a defect.
    """
    classes = data.pool.classes
    if option is None:
        return replace(data, normal=known)
    if option == GUESS and GUESS not in classes:
        normal = guessed(classes)
        return replace(data, normal=normal, normal_guessed=normal is not None)
    names = [str(name) for name in (option if isinstance(option, list | tuple) else [option])]
    for name in names:
        hint = did_you_mean(name, classes, otherwise=";") + f" the classes are {', '.join(classes)}."
        expect(name in classes, f"Expected classes of the dataset in dataset.normal, got {name!r}{hint}")
    normal = tuple(c for c, name in enumerate(classes) if name in names)
    expect(
        0 < len(normal) < len(classes),
        f"Expected dataset.normal to name some of the classes ({', '.join(classes)}) and leave at least one as a defect, "
        f"got {'all' if normal else 'none'} of them.",
    )
    return replace(data, normal=normal)
