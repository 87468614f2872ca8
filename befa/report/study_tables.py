"""What the paper shows as pictures, as numbers: drift and omission, the distribution of features, sensitivity."""

from collections.abc import Callable, Mapping
from typing import Any

from befa.attribution.heatmap import METHODS
from befa.report.experiment import NAMES, Experiment, short
from befa.report.results import Study
from befa.report.values import REPRO, Form, Row, Table, Value

ON_OBJECTS = ("pointing", "energy", "coverage")
ANGLES: Mapping[str, Form] = {
    "angle": "degrees",
    "lambda": "number",
    "angle_trained": "degrees",
    "lambda_trained": "number",
}


def angles(experiment: Experiment, encoder: str) -> Table:
    """How far pictures' content lies from behaviour (equations 4 to 7 of arXiv 2406.00323)."""
    rows = []
    for study in _of(experiment, "attribution", encoder):
        for adapter in dict.fromkeys(("none", study.adapter)):
            figure = _figures("attribution", study, adapter)
            of = study.measures.get(adapter, {}).get("behaviour", {})
            values = tuple(figure(name, form, of.get(name)) for name, form in ANGLES.items())
            rows.append(Row(_label(study, adapter), values, last=adapter == study.adapter))
    note = (
        "Angle: mean angle in degrees between an item's content and its id (equation 4), over all items with a "
        "picture (under `missing: mean` over all, those that were given the mean vector too); Λ: mean of 1 less its "
        "cosine (equation 7). The id vector stands in for the ideal one. Of the "
        "encoder's vectors: the content that the heatmaps explain. Of the trained table: that of the feature table as "
        "training left it, which is what the host works with; a dash where training leaves the table alone."
    )
    groups, columns = (("of the encoder's vectors", 2), ("of the trained table", 2)), ("angle", "Λ") * 2
    title = f"How far content lies from behaviour, {encoder}"
    return Table(f"angles-{encoder}", title, note, groups, columns, tuple(rows))


def attribution(experiment: Experiment, encoder: str) -> Table:
    """Where pictures speak for behaviour (section 3.1 of arXiv 2406.00323), before, after, and the difference."""
    rows = []
    for study in _of(experiment, "attribution", encoder):
        for method, title in METHODS.items():
            for adapter in dict.fromkeys(("none", study.adapter)):
                figure = _figures("attribution", study, adapter)
                found = study.measures.get(adapter, {}).get(method, {})
                values = [
                    *(figure(f"{method}/{name}", "share", found.get(name)) for name in (*ON_OBJECTS, "chance")),
                    figure(
                        f"{method}/with-heat",
                        "text",
                        f"{found['items'] - found['without_heat']} of {found['items']}" if found else None,
                    ),
                    figure(f"{method}/weights_spread", "number", found.get("weights_spread")),
                    figure(f"{method}/negative_weights", "share", found.get("negative_weights")),
                ]
                rows.append(Row(f"{_label(study, adapter)}, {title}", tuple(values), last=study.adapter == "none"))
            if study.adapter != "none":
                rows.append(_difference(study, method))
    note = (
        "Means over the explained pictures that have heat and whose object is known. Pointing: the hottest place is "
        "on the object. Energy: share of the heat on the object, the rest is drift. Coverage: share of the object "
        "among as many hottest places as the object has, the rest is omission. Chance: the object's share of the "
        "picture, which is what even heat has of all three. With heat: pictures whose heatmap is more than rounding. "
        "Spread: of the channels' weights, standard deviation over mean size; near 0 the heatmap is the plain sum of "
        "the maps. Negative: share of the channels whose weight is below 0, over all pictures; where most are, the map "
        "is turned round: heat lies where channels are low. Difference: with the adapter less without, in points, over "
        "the pictures with heat in both, and its 95 % interval over them (bootstrap). Less baseline: less the score of "
        "the picture without content, which equation 2 does not have."
    )
    groups = (("on the object", len(ON_OBJECTS) + 1), ("pictures", 1), ("weights", 2))
    columns = (*ON_OBJECTS, "chance", "with heat", "spread", "negative")
    title = f"Drift and omission: where pictures speak for behaviour, {encoder}"
    return Table(f"attribution-{encoder}", title, note, groups, columns, tuple(rows))


def _difference(study: Study, method: str) -> Row:
    """The line of a method's paired differences."""
    figure = _figures("attribution", study, study.adapter)
    found = study.measures.get("difference", {}).get(method, {})
    values = [figure(f"{method}/{name}/difference", "text", _points(found.get(name))) for name in ON_OBJECTS]
    pictures = figure(f"{method}/pictures-in-both", "text", f"{found['pictures']} in both" if found else None)
    return Row(
        f"{_label(study, study.adapter)}, {METHODS[method]}, difference",
        (*values, None, pictures, None, None),
        last=True,
    )


def _points(found: Mapping[str, float | None] | None) -> str | None:
    """A difference of shares and its interval: -24 (-31 to -17)."""
    if not found or found["mean"] is None:
        return None
    mean, low, high = (
        None if found[end] is None else f"{round(100 * found[end]):+d}" for end in ("mean", "low", "high")
    )
    return mean if low is None else f"{mean} ({low} to {high})"


def distribution(experiment: Experiment, encoder: str) -> Table:
    """How content lies without and with an adapter: Figure 9 as numbers."""
    rows = []
    for study in _of(experiment, "distribution", encoder):
        modalities = study.measures.get("modalities", {"all modalities": {}})
        for modality, adapter in [(m, a) for m in modalities for a in dict.fromkeys(("none", study.adapter))]:
            figure = _figures("distribution", study, adapter)
            of = modalities[modality].get(adapter, {})
            gate = of.get("gate") or {}
            values = [
                figure(f"{modality}/{name}", "number", of.get(name))
                for name in ("uniformity", "uniformity_of_ids", "alignment_to_id", "alignment_in_baskets")
            ]
            gates = ("mean", "over_items", "over_channels")
            values += [figure(f"{modality}/gate-{name}", "number", gate.get(name)) for name in gates]
            label = f"{_label(study, adapter)}, {modality}"
            rows.append(Row(label, tuple(values), last=adapter == study.adapter))
    note = (
        "Uniformity: log of the mean of exp(-2 |x - y|^2) over pairs of items, lower is more even; alignment: mean "
        "squared distance, of unit vectors, of an item's content to its id, and of items that one user has, lower is "
        "nearer (arXiv 2005.10242). BeFA's content is the id times a gate in (0, 1): its distance to the id falls by "
        "construction, whatever the content says; that in baskets need not. Under `missing: mean` items that were "
        "given the mean vector count, too. Gate: of BeFA, its mean, and its standard deviation over items and over "
        "channels: 0 over items is a gate that does not heed what an item's content says."
    )
    columns = ("of content", "of ids", "to the id", "in baskets", "mean", "over items", "over channels")
    groups = (("uniformity", 2), ("alignment", 2), ("gate", 3))
    title = f"Distribution of content (Figure 9 as numbers), {encoder} features"
    return Table(f"distribution-{encoder}", title, note, groups, columns, tuple(rows))


def sensitivity(experiment: Experiment, encoder: str) -> Table:
    """The grid's best lambda beside the learned one: Figure 10 as numbers."""
    rows = []
    for study in _of(experiment, "sensitivity", encoder):
        figure, of = _figures("sensitivity", study, study.adapter), study.measures
        metric = of.get("metric", "")
        learned = of.get("learned") or {}
        widths = ", ".join(f"{value:.2f} ({modality})" for modality, value in learned.get("lambda", {}).items())
        values = (
            figure("base", "ratio", of.get("base", {}).get("test", {}).get(metric)),
            figure("best-lambda", "text", f"{of['best']['lambda']:g}" if of else None),
            figure("best", "ratio", of.get("best", {}).get("test")),
            figure("learned-lambda", "text", widths or None),
            figure("learned", "ratio", learned.get("test", {}).get(metric)),
            figure("gap", "change", 0 - of["gap"]["test"] if of.get("gap") else None),
        )
        rows.append(Row(_label(study, "none") + (metric and f", {metric}"), values, last=True))
    note = (
        "Test values, means over seeds. The grid's best is the λ with the highest value on validation, which, as a "
        "maximum over several, is optimistic there; its test value had no say in that. The learned λ comes out of one "
        "training (the paper's future work). Its gap: its test value less that of the grid's best. The whole grid is "
        "in the picture, and in the JSON beside it."
    )
    groups = (("", 1), ("best of the grid", 2), ("learned", 3))
    columns = ("base", "λ", "value", "λ", "value", "gap")
    return Table(
        f"sensitivity-{encoder}",
        f"Sensitivity to λ (Figure 10 as numbers), {encoder} features",
        note,
        groups,
        columns,
        tuple(rows),
    )


TABLES: tuple[tuple[str, Callable[[Experiment, str], Table]], ...] = (
    ("attribution", angles),
    ("attribution", attribution),
    ("distribution", distribution),
    ("sensitivity", sensitivity),
)
"""By the kind of study that they are made of."""


def _of(experiment: Experiment, kind: str, encoder: str) -> list[Study]:
    return [study for study in experiment.studies.get(kind, ()) if study.encoder == encoder]


def _label(study: Study, adapter: str) -> str:
    return f"{study.dataset} {NAMES.get(study.model, study.model)}" + (
        "" if adapter == "none" else f" +{NAMES.get(adapter, adapter)}"
    )


def _figures(kind: str, study: Study, adapter: str) -> Callable[[str, Form, Any], Value]:
    """Makes the figures of one line."""
    stem = f"{kind}/{study.dataset}/{study.encoder}/{short(study.model, adapter)}"
    if adapter == "none" and study.adapter != "none":  # two adapters of a model have the same base
        stem += f"/beside-{study.adapter}"

    def figure(name: str, form: Form, ours: Any) -> Value:
        return Value(f"{stem}/{name}", study.state, REPRO + study.stage, form=form, ours=ours)

    return figure
