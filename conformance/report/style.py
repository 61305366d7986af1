"""The stylesheet of the report and of standalone pictures. Contains no text and no numbers of a report.

Colours follow the reader's light or dark preference. Blue, vermillion, amber, green and purple can be told apart with
the usual kinds of colour blindness (after Okabe and Ito). No meaning depends on colour alone: statuses have glyphs,
lines have marks and dashes.
"""

from collections.abc import Sequence

from .svg import rect, svg

COLOURS = """
:root{color-scheme:light dark;--paper:#fbfaf7;--card:#fff;--ink:#1d2126;--soft:#59616b;--rule:#e0ddd5;--grid:#eceae4;
--ours:#0068b3;--p0:#c44a00;--p1:#a7468a;--p2:#00785c;--p3:#9a6a00;--p4:#5b5fc7;--p5:#7a5540;
--good:#e3effa;--good-ink:#0b4f88;--bad:#c23a00;--bad-ink:#fff;--known:#fbe7b5;--known-ink:#6b4a00;--none:#efeeea;
--none-ink:#5d636b;--exact:#e6f2ee;--broken:#f8e3d8}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1b1f25;--ink:#e8e6e1;--soft:#a3abb5;--rule:#343a43;
--grid:#2a2f37;--ours:#5fb2f2;--p0:#ff8a4c;--p1:#e191c8;--p2:#3fc6a0;--p3:#e5b440;--p4:#a2a6ff;--p5:#c79f86;
--good:#17324a;--good-ink:#a9d4f7;--bad:#ff8a4c;--bad-ink:#241003;--known:#4a3b12;--known-ink:#f6d98b;--none:#262b32;
--none-ink:#a3abb5;--exact:#182a27;--broken:#3a241a}}
"""

DRAWING = """
svg{display:block;width:100%;height:auto;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
.ground{fill:var(--card)}.frame{fill:none;stroke:var(--soft);stroke-width:.8}.grid{stroke:var(--grid);stroke-width:1}
.exact{fill:var(--exact)}.broken{fill:var(--broken)}.lost{stroke:var(--soft);stroke-width:1;stroke-dasharray:1 4}
.bound{fill:none;stroke:var(--ink);stroke-width:1.5;stroke-dasharray:7 4}
.series{fill:none;stroke-width:1.6;stroke-linejoin:round}.area{stroke:none;opacity:.16}
.tick{fill:var(--soft);font-size:12px}.axis{fill:var(--soft);font-size:12px}
.note{fill:var(--soft);font-size:11px;paint-order:stroke;stroke:var(--card);stroke-width:3px}
.title{fill:var(--ink);font-size:14px;font-weight:600}.key{fill:var(--ink);font-size:12px}
""" + "".join(
    f".{name}.series{{stroke:var(--{name})}}.{name}.mark,.{name}.area{{fill:var(--{name})}}"
    for name in ("ours", "p0", "p1", "p2", "p3", "p4", "p5")
)

PAGE = """
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);line-height:1.5;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",sans-serif}
main,header,footer{max-width:1440px;margin:0 auto;padding:0 clamp(14px,3vw,40px)}
header{padding-top:34px}footer{padding-top:20px;padding-bottom:44px;color:var(--soft);font-size:.9rem}
h1{font-size:clamp(1.5rem,4vw,2.2rem);line-height:1.15;margin:0 0 .3em;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:1.3rem;margin:2.4em 0 .3em;border-top:1px solid var(--rule);padding-top:1.1em}
h3{font-size:1.02rem;margin:1.6em 0 .5em;overflow-wrap:anywhere}
p{max-width:76ch;margin:.4em 0 .9em}.lead{color:var(--soft)}
code,pre{font-family:ui-monospace,"SF Mono",Menlo,"DejaVu Sans Mono",monospace;font-size:.86em}
pre{background:var(--none);border-radius:6px;padding:.6em .8em;margin:.35em 0 0;overflow-x:auto}
pre.wrap{white-space:pre-wrap;overflow-wrap:anywhere}
a{color:var(--ours)}summary{cursor:pointer;font-weight:600;padding:.35em 0}
summary small{font-weight:400;color:var(--soft)}
.tally{display:flex;flex-wrap:wrap;gap:10px;margin:1.1em 0 0;padding:0;list-style:none}
.tally li{padding:.45em .9em;border-radius:8px;font-variant-numeric:tabular-nums}.tally b{font-size:1.15em}
.pass{background:var(--good);color:var(--good-ink)}.fail{background:var(--bad);color:var(--bad-ink)}
.xfail{background:var(--known);color:var(--known-ink)}.skip,.empty{background:var(--none);color:var(--none-ink)}
.scroll{overflow-x:auto;border:1px solid var(--rule);border-radius:8px;background:var(--card)}
table{border-collapse:separate;border-spacing:0;font-size:.9rem;width:100%}
th,td{padding:.45em .7em;text-align:left;border-bottom:1px solid var(--rule);vertical-align:top}
tr:last-child>td,tr:last-child>th{border-bottom:0}
thead th{font-weight:600;color:var(--soft);white-space:nowrap}tbody th{font-weight:600;white-space:nowrap}
.matrix td,.matrix thead th{padding:.4em .35em}
.matrix tbody th{min-width:12em;white-space:normal;overflow-wrap:anywhere}
.matrix td{text-align:center;white-space:nowrap;vertical-align:middle;
border-left:2px solid var(--card);border-bottom:2px solid var(--card);
font-variant-numeric:tabular-nums;line-height:1.3}
.matrix td span{display:block}.matrix i{font-style:normal}.matrix td.pass span+span{opacity:.8}
.matrix thead th{text-align:center}
.matrix tbody th,.matrix thead th:first-child{position:sticky;left:0;background:var(--card);text-align:left;z-index:1}
.matrix th small{display:block;font-weight:400;color:var(--soft)}
.num small{color:var(--soft);margin-left:.7em}
.num{font-variant-numeric:tabular-nums;white-space:nowrap}.num.over{color:var(--bad);font-weight:700}
.legend{display:flex;flex-wrap:wrap;gap:6px 20px;list-style:none;padding:0;margin:.6em 0;font-size:.9rem}
.legend li{display:flex;align-items:center;gap:7px}.legend svg{width:40px;height:16px;flex:none}
.plots{display:grid;gap:14px;grid-template-columns:minmax(0,1fr)}
@media (min-width:760px){.plots{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media (min-width:1120px){.plots{grid-template-columns:repeat(3,minmax(0,1fr));grid-template-rows:auto auto;
grid-auto-flow:column}}
.plots>div,.small>figure{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:8px}
.small{display:grid;gap:10px;grid-template-columns:minmax(0,1fr)}
@media (min-width:760px){.small{grid-template-columns:repeat(3,minmax(0,1fr))}}
figure{margin:0}figcaption{font-size:.82rem;color:var(--soft);padding:0 4px 2px}
.findings{padding-left:1.2em;max-width:90ch}.findings li{margin:.25em 0}
.cases{display:grid;gap:12px;grid-template-columns:repeat(auto-fit,minmax(min(100%,520px),1fr))}
.cases>article{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.8em 1em;min-width:0}
.cases h3{margin:0 0 .15em;overflow-wrap:anywhere}.cases p{margin:.15em 0;overflow-wrap:anywhere}
.bar{height:8px;border-radius:4px;background:var(--none);margin:.5em 0;overflow:hidden}
.bar i{display:block;height:100%;
background:var(--ours)}.bar i.over{background:var(--bad)}
.reasons{padding-left:1.2em}.reasons li{margin:.45em 0;overflow-wrap:anywhere}
.reasons small{color:var(--soft);display:block}
.versions{display:flex;flex-wrap:wrap;gap:8px;list-style:none;padding:0}
.versions li{background:var(--card);border:1px solid var(--rule);border-radius:6px;padding:.2em .7em}
@media (max-width:640px){th,td{padding:.4em .5em}.matrix tbody th{min-width:8.6em;white-space:normal}}
.hint{display:none;font-size:.82rem;color:var(--soft);margin:.2em 0}
.scroll{background:linear-gradient(90deg,var(--card) 30%,transparent) 0 0/40px 100% no-repeat local,
linear-gradient(270deg,var(--card) 30%,transparent) 100% 0/40px 100% no-repeat local,
linear-gradient(90deg,var(--rule),transparent) 0 0/12px 100% no-repeat,
linear-gradient(270deg,var(--rule),transparent) 100% 0/12px 100% no-repeat var(--card)}
@media (max-width:900px){.hint{display:block}}
@media print{details{break-inside:avoid}.scroll{overflow:visible}}
"""


def standalone(width: float, height: float, title: str, body: Sequence[str], more: str = "") -> str:
    """A picture with its own background and stylesheet, which follows the reader's light or dark preference."""
    style = f"{COLOURS}{DRAWING}.paper{{fill:var(--paper)}}{more}"
    return svg(width, height, title, [rect(0, 0, width, height, "paper"), *body], style) + "\n"
