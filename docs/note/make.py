"""Write what is computed in checked.md and checked.zh.md, and draw the note's figure.

python docs/note/make.py            # the tables, in both languages, and figure.svg
python docs/note/make.py --check    # say where the tables differ from what is computed now; change nothing

The prose of the pages is written by hand. Each table stands between ``<!-- claims: SECTION -->`` and ``<!-- end -->``
and comes from what ``mixcoder reproduce`` computes; zh.json has its words in Chinese, by the id of the claim.
"""

import json
import re
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

from mixcoder.cli.claims import HEADINGS, claims, judge
from mixcoder.cli.reproduce import figure
from mixcoder.ops.embedding import EmbeddingKernel, encode_embedded
from mixcoder.plot import _style as style

HERE = Path(__file__).parent
PAGES = {"en": HERE / "checked.md", "zh": HERE / "checked.zh.md"}
BLOCK = re.compile(r"(<!-- claims: ([\w -]+?) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADS = {
    "en": "| The note says | Verdict | Number | of what | Recompute with `--claim` |",
    "zh": "| 原文的说法 | 结论 | 数值 | 含义 | 复算：`--claim` |",  # noqa: RUF001
}
VERDICTS = {
    "en": {"holds": "**holds**", "holds when": "**holds when**", "fails": "**fails**"},
    "zh": {"holds": "**成立**", "holds when": "**有条件成立**", "fails": "**不成立**"},
}
COUNTS = {
    "en": "Of {all} claims {holds} hold, {holds when} hold under a condition, and {fails} fail.",
    "zh": "共 {all} 条：{holds} 条成立，{holds when} 条有条件成立，{fails} 条不成立。",  # noqa: RUF001
}


def computed(seed=0):
    """The findings as ``mixcoder reproduce --json`` has them."""
    return [{"id": name, **vars(finding)} for name, finding in judge(claims(), seed)]


def words(finding, language):
    """Claim, reason and meaning of the number; in Chinese they are Markdown already."""
    if language == "zh":
        told = json.loads((HERE / "zh.json").read_text(encoding="utf-8"))[finding["id"]]
        return told["claim"], told.get("because", ""), told["meaning"]
    return tuple(
        re.sub(r"([\\|*_<>\[\]$`])", r"\\\1", finding[key]) for key in ("claim", "because", "meaning")
    )


def table(findings, section, language):
    """The claims of a section as a table."""
    rows = [HEADS[language], "| --- | --- | ---: | --- | --- |"]
    for finding in findings:
        if finding["section"] == section:
            claim, because, meaning = words(finding, language)
            mark = {"en": {"holds when": " ", "": ": "}, "zh": {"": "："}}[language]  # noqa: RUF001
            verdict = VERDICTS[language][finding["verdict"]]
            if because:
                verdict += mark.get(finding["verdict"], mark[""]) + because
            number = f"{figure(finding['number'])}"
            rows.append(f"| {claim} | {verdict} | {number} | {meaning} | `{finding['id']}` |")
    return "\n".join(rows) + "\n"


def filled(text, findings, language):
    """The page with its tables and its count as the findings have them."""
    verdicts = [finding["verdict"] for finding in findings]
    count = COUNTS[language].format_map(
        {"all": len(verdicts), **{v: verdicts.count(v) for v in VERDICTS["en"]}}
    )

    def block(match):
        inside = count + "\n" if match[2] == "count" else table(findings, match[2], language)
        return f"{match[1]}\n{inside}\n{match[3]}"

    return BLOCK.sub(block, text)


def sections(text):
    """The sections whose tables a page has, in its order."""
    return [match[2] for match in BLOCK.finditer(text) if match[2] != "count"]


def log_odds(v, anchors, kernel):
    """f(v) = log q_1 / (1 - q_1) at the points v (n,)."""
    log_q, log_q_0 = kernel.log_code(torch.as_tensor(v)[:, None], anchors)
    return (log_q[:, 0] - torch.logsumexp(torch.cat([log_q[:, 1:], log_q_0[:, None]], 1), 1)).numpy()


def draw():
    """The note's figure: f(v) without the absorber and with it, for both of its examples; natural logarithm."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 3.9), layout="constrained")
    plain, third = EmbeddingKernel(), EmbeddingKernel(absorber=1.0, alpha=1.0)
    v = np.linspace(-3, 3, 601)
    for ax, first in zip(drawing.subplots(1, 2, sharey=True), (0.0, 1.0), strict=True):
        anchors = torch.tensor([[first], [-1.0]], dtype=torch.float64)
        best = encode_embedded(torch.tensor([[1.0, 0.0]], dtype=torch.float64), anchors, third).codes
        at, q = best.item(), third.log_code(best, anchors)[0][0, 0].exp().item()
        top = log_odds([at], anchors, third)[0]
        ax.plot(v, log_odds(v, anchors, plain), color=style.PALETTE[5], ls="--", lw=1.8, label="λ = 0")
        ax.plot(v, log_odds(v, anchors, third), color=style.PALETTE[0], lw=2.2, label="λ = α = β = 1")
        ax.plot([at, at], [-6, top], color=style.PALETTE[0], lw=0.8)
        ax.plot(at, top, "o", color=style.PALETTE[0], ms=7, mec=style.PAPER)
        ax.annotate(f"v = {at:.6f}\nq₁ = {q:.6f}", (at, top), (at + 0.45, 0.25), fontsize=9, color=style.INK)
        for name, w, face in (("w₁", first, style.INK), ("w₂", -1.0, style.PAPER)):
            ax.plot(w, -6, "^", ms=9, mfc=face, mec=style.INK, clip_on=False, zorder=5)
            ax.annotate(name, (w, -6), (0, 9), textcoords="offset points", ha="center", fontsize=9)
        ax.set(xlim=(-3, 3), ylim=(-6, 6), xlabel="v", title=f"w = ({first:g}, \N{MINUS SIGN}1)")
        ax.title.set_fontsize(10)
        ax.grid(color=style.RULE, lw=0.5)
        style.tidy(ax)
        ax.legend(frameon=False, fontsize=9, loc="upper left")
    drawing.axes[0].set_ylabel("f(v) = log q₁ / (1 \N{MINUS SIGN} q₁)")
    return drawing


def main():
    findings = computed()
    stale = []
    for language, page in PAGES.items():
        text = page.read_text(encoding="utf-8")
        new = filled(text, findings, language)
        if sorted(sections(text)) != sorted(HEADINGS):
            raise SystemExit(f"{page.name} has not every section once: {', '.join(sections(text))}")
        if text != new:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(new, encoding="utf-8")
    if "--check" in sys.argv:
        raise SystemExit(f"not as computed: {', '.join(stale)}" if stale else 0)
    with mpl.rc_context({"svg.hashsalt": "mixcoder", "font.family": "DejaVu Sans"}):
        draw().savefig(HERE / "figure.svg", metadata={"Date": None, "Creator": None})
    print(f"{len(findings)} claims; written anew: {', '.join(stale) or 'nothing but the figure'}")


if __name__ == "__main__":
    main()
