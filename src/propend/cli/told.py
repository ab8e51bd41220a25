"""What ``propend predict`` prints of its document."""

from __future__ import annotations

from typing import Any

import click

from propend.cli.output import rows

__all__ = ["tell", "verdict_told"]


def verdict_told(verdict: dict[str, Any]) -> str:
    """Return a card's verdict as it is printed beside a file of scores.

    >>> verdict_told({"answer": "use", "why": "beats rfm"})
    'use: beats rfm'
    """
    why = ": ".join(filter(None, (verdict.get("answer"), verdict.get("why"))))
    return "; ".join(filter(None, (why, verdict.get("file"))))


def _judged(entry: dict[str, Any], metric: str) -> str:
    """Return a segment's metric with its interval, or why there is none, and what is odd about its predictions."""
    if "note" in entry:
        return str(entry["note"])
    told = f"{entry[metric]:.4f} ({entry['low']:.4f} to {entry['high']:.4f})"
    return f"{told}; {entry['remark']}" if "remark" in entry else told


def tell(d: dict[str, Any]) -> None:
    """Print a prediction's document in words."""
    from propend.learn.metrics import AT_THRESHOLD
    from propend.learn.power import counted
    from propend.pipeline.prediction import short

    of = f"{d['rows']:,} rows" + counted(d["answer"], d["positives"]).rstrip(",")
    if d.get("positive") is not None:
        of = f"{d['positives']:,} of {d['rows']:,} say {d['positive']!r}"
    click.echo(
        f"{d['task']}\n  {of}; {d['protocol']}\n  data {d['data_hash']}, seed {d['seed']}, champion {d['champion']}"
    )
    if d.get("positive") is not None:
        click.echo(
            f"  scores are the probability of {d['positive']!r} against {d['negative']!r}; --positive TEXT asks for another answer"
        )
    if d.get("read"):
        click.echo(f"  {d['read']}")
    click.echo()
    keys = [
        k
        for k in (
            "auroc",
            "average_precision",
            "threshold",
            "accuracy",
            "recall",
            "f1",
            "log_loss",
            "brier",
            "ece",
            "top_1",
            "top_3",
            "top_5",
            "c_index",
            "pinball",
            "below",
            "rmse",
            "mae",
            "bias",
            "gini",
            "poisson_deviance",
        )
        if k in d["metrics"]
    ]
    table = [[f"champion ({d['champion']})", *(f"{d['metrics'][k]:.4f}" for k in keys)]]
    table += [[name, *(f"{m[k]:.4f}" for k in keys)] for name, m in d["models"].items()]
    table += [
        [f"baseline {name}", *(f"{m[k]:.4f}" for k in keys)] for name, m in d["baseline"].items()
    ]
    rows(["model", *keys], table)
    flagged = [k for k in keys if k in AT_THRESHOLD]
    if flagged:
        click.echo(f"  {', '.join(flagged)}: yes is said from the threshold in the same line on")
    if "accuracy" in flagged and d.get("tested_positives") is not None:
        share = d["tested_positives"] / d["tested"]
        answer = (d.get("negative") or "no") if share < 0.5 else (d.get("positive") or "yes")
        click.echo(
            f"  accuracy of always saying {answer!r}: {max(share, 1 - share):.4f}; the threshold is the best for F1, not for accuracy"
        )
    for name, i in d["intervals"].items():
        click.echo(f"  {name}: {i['low']:.4f} to {i['high']:.4f} (95 %)")
    held = d.get("uncertainty", {}).get("forward")
    if held:
        click.echo(
            f"  intervals: {held['coverage']:.0%} of {held['rows']:,} later rows inside, {held['level']:.0%} promised; "
            f"mean width {short(held['width'])}"
        )
    for key in ("verdict", "power"):
        if key in d:
            click.echo(f"  {key}: {d[key].get('sentence') or verdict_told(d[key])}")
    if "future" in d:
        click.echo(f"  leak report: {d['future']['sentence']}")
    if "behaviour" in d:
        click.echo(f"  behaviour model: {d['behaviour']['sentence']}")
    if "profit" in d:
        judged = "the forward tests" if "forward folds" in d["protocol"] else "the folds"
        click.echo(f"  profit, judged on {judged}: {d['profit']['sentence']}")
    for name, found in d.get("segments", {}).items():
        metric = keys[0]
        click.echo(f"  by {name}:")
        rows(
            ["segment", "rows", "rate", "predicted", metric],
            [
                [e["segment"], f"{e['rows']:,}", f"{e['rate']:.4f}", f"{e['predicted']:.4f}", _judged(e, metric)]
                for e in found
            ],
        )  # fmt: skip
    if "selection" in d:
        click.echo(
            f"  features: {d['selection']['kept']} of {d['selection']['of']} kept, {d['selection']['rule']}"
        )
    if "search" in d:
        for model, chosen in d["search"]["chosen"].items():
            said = ", ".join(
                f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in chosen.items()
            )
            click.echo(f"  search, {model}: {said or 'the usual settings stay'}")
    if "balance" in d:
        click.echo(f"  balance: {d['balance']}")
    if "deletion" in d:
        click.echo(
            f"  explanations: replacing what the reasons name moves a score {d['deletion']['ratio']:.1f} times as far as replacing anything"
        )
    if "reasons" in d:
        click.echo(f"  explanations: {d['reasons']}")
    if "explained" in d:
        e = d["explained"]
        click.echo(f"  {e['user']}: {e['score']:.4f}")
        if "note" in e:
            click.echo(f"    {e['note']}")
        for r in e["reasons"]:
            click.echo(f"    {'+' if r['effect'] > 0 else '-'} {r['words']}: {short(r['value'])}")
        for c in e.get("changes") or []:
            click.echo(
                f"    with {c['words']} at {short(c['becomes'])} instead of {short(c['was'])}: {c['score']:.4f}"
            )
        if "changes" in e and not e["changes"]:
            click.echo(
                f"    no few changes in behaviour bring the score across {e['mark']['score']:.4g}, {e['mark']['what']}"
            )
    if "abstained" in d:
        click.echo(
            f"  not enough data for {d['abstained']['users']:,} of {d['scored']:,} users (interval wider than {d['abstained']['width']:g})"
        )
    if d.get("unanswered"):
        click.echo(
            f"  {d['unanswered']:,} rows have no answer within the time asked and were left out"
        )
    for name, said in d.get("noted", {}).items():
        click.echo(f"  {name}: {said}")
    for leak in d.get("leaks", []):
        click.echo(f"  leak report: {leak['sentence']}")
    if d.get("malformed"):
        click.echo(
            f"  {d['malformed']:,} of {d['rows_in']:,} lines are no rows (too few or too many cells) and were left out"
        )
    if d.get("unlabelled"):
        click.echo(f"  {d['unlabelled']:,} rows have no label and were left out")
    if d.get("left_out"):
        click.echo("  left out: " + "; ".join(f"{k} ({v})" for k, v in d["left_out"].items()))
    if d.get("reused"):
        click.echo(
            "  nothing was fitted: the kept model is of the same rows, question, seed and code"
        )
    if d.get("kept"):
        click.echo(f"  kept as version {d['version']}, not promoted: {d['kept']}")
    click.echo(f"  scores: {d['scores']}")
    if "new" in d:
        click.echo(f"  {d['new']['rows']:,} further rows: {d['new']['scores']}")
        for name, said in d["new"]["noted"].items():
            click.echo(f"    {name}: {said}")
