"""How the report looks: colours of either scheme, the style sheet, and text that is safe in HTML."""

from __future__ import annotations

import html
import re

# Light and dark. The light ones are what plots are drawn with; each must be unique, as it is how a finished
# drawing's colours are found and made to follow the scheme.
COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#15181c"),
    "card": ("#f6f7f9", "#1d2126"),
    "ink": ("#1f2328", "#e6e9ec"),
    "faint": ("#5d6670", "#a0a9b3"),
    "rule": ("#d8dce1", "#383e46"),
    "good": ("#1a7f37", "#4cc46f"),
    "bad": ("#c4222e", "#ff7d76"),
    "unsure": ("#7d8690", "#8b95a0"),
    "warn": ("#b45f06", "#e9a23b"),
    "a": ("#2160c4", "#6fb0ff"),
    "mark": ("#a8337f", "#f08fce"),
    "hold": ("#98a1ab", "#6f7984"),
    "teleop": ("#d98a00", "#e0a030"),
    "autonomy": ("#3f7fe0", "#4f8df0"),
    "estop": ("#d0202f", "#f0525c"),
    "go_to": ("#6c7fa8", "#8fa3cf"),
    "j0": ("#1f6fb4", "#62b0f5"),
    "j1": ("#c96a12", "#f5a357"),
    "j2": ("#2b8a3e", "#69d07f"),
    "j3": ("#b8323f", "#ff8a90"),
    "j4": ("#7a52b3", "#bd9bf2"),
    "j5": ("#84584b", "#cfa293"),
    "j6": ("#b84b98", "#f29bd6"),
    "j7": ("#0f8b8d", "#4fd1d3"),
}
JOINT_COLOURS = tuple(name for name in COLOURS if name.startswith("j"))
DRIVERS = ("hold", "teleop", "autonomy", "estop", "go_to")  # by their numbers in ControlMode
DRIVER_WORDS = ("hold", "a person", "the policy", "emergency stop", "on the way to a pose")


def ink(name: str) -> str:
    """The colour to draw with."""
    return COLOURS[name][0]


def themed(svg: str) -> str:
    """A drawing whose colours are the style sheet's variables."""
    for name, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{name})")
    return svg


def esc(value: object) -> str:
    """A value as text in HTML, also in quoted attributes; what UTF-8 cannot hold becomes an escape."""
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0"))


def typeset(sentence: str) -> str:
    """A sentence with figures as HTML text: true minus signs, and no line break before a percent sign."""
    return re.sub(r"(?<![\w)])-(?=\d)", "\N{MINUS SIGN}", esc(sentence)).replace(" %", "\N{NO-BREAK SPACE}%")


def percent(rate: float) -> str:
    return f"{100 * rate:.0f}\N{NO-BREAK SPACE}%"


def amount(value: float | None, unit: str = "") -> str:
    """A number with three significant digits, a dash if it is not known."""
    if value is None:
        return "\N{EN DASH}"
    size = abs(value)
    digits = 0 if size >= 100 or size == 0 else 1 if size >= 10 else 2 if size >= 1 else 3
    text = f"{value:.{digits}f}" if size >= 0.01 or size == 0 else f"{value:.2g}"
    return f"{text}\N{NO-BREAK SPACE}{unit}" if unit else text


def seconds(time_s: float) -> str:
    """A moment of an episode, to a tenth of a second; what rounds to zero has no sign."""
    return f"{round(time_s, 1) + 0.0:.1f} s"


def _variables(scheme: int) -> str:
    return "".join(f"--{name}:{pair[scheme]};" for name, pair in COLOURS.items())


STYLE = (
    f":root{{color-scheme:light dark;{_variables(0)}}}"
    f"@media screen and (prefers-color-scheme:dark){{:root{{{_variables(1)}}}}}"
    + """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
 font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","Liberation Sans",
 "DejaVu Sans",sans-serif}
main{max-width:1080px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .25rem;letter-spacing:-.01em}
h2{font-size:1.25rem;line-height:1.3;margin:2.75rem 0 .6rem;padding-top:1rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.4rem 0 .4rem}
h1,h2,h3,p,li,dd,summary{overflow-wrap:anywhere}
td,th{overflow-wrap:break-word}
p{margin:.4rem 0;max-width:46rem}
a{color:var(--a)}
.faint,figcaption,caption{color:var(--faint)}
small,figcaption,caption{font-size:.85rem}
.key{display:grid;grid-template-columns:repeat(auto-fit,minmax(10.5rem,1fr));gap:1rem 1.5rem;
 margin:1.5rem 0 0}
.key dt{font-size:.85rem;color:var(--faint)}
.key dd{margin:0;font-size:1.6rem;line-height:1.25;font-weight:600;font-variant-numeric:tabular-nums}
.key dd small{display:block;font-weight:400;font-size:.85rem;color:var(--faint)}
.notice{border-left:4px solid var(--warn);background:var(--card);padding:.7rem 1rem;margin:1.5rem 0 0;
 border-radius:0 6px 6px 0}
.notice ul{margin:.4rem 0;padding-left:1.2rem}
.finding{font-size:1.1rem;line-height:1.45;border-left:4px solid var(--a);padding:.1rem 0 .1rem 1rem}
.scroll{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
caption{text-align:left;padding:.3rem 0}
th,td{padding:.32rem .9rem .32rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
th{font-weight:600;color:var(--faint);font-size:.85rem}
tbody th{color:var(--ink);font-size:.92rem}
tr.head th{padding-top:.9rem;border-bottom-color:var(--faint)}
tr.sum td,tr.sum th{font-weight:600}
td.n,th.n{text-align:right}
td.n,.w{white-space:nowrap}
td.t{min-width:12rem;max-width:24rem;overflow-wrap:anywhere}
td.draw{min-width:9rem;width:16rem;vertical-align:middle}
.bar{position:relative;display:block;height:1rem;
 background:linear-gradient(var(--rule),var(--rule)) 0 50%/100% 1px no-repeat}
.bar i,.bar b,.bar s{position:absolute;display:block}
.bar i{top:.36rem;height:.28rem;border-radius:.14rem;background:var(--a);opacity:.55}
.bar b{top:.2rem;width:.6rem;height:.6rem;margin-left:-.3rem;border-radius:50%;background:var(--a)}
.bar s{top:0;bottom:0;width:1px;background:var(--faint)}
.scale{display:flex;justify-content:space-between;font-size:.75rem;color:var(--faint);font-weight:400}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,310px),1fr));gap:1.25rem 1.75rem;
 margin:.8rem 0}
figure{margin:0;min-width:0}
figure svg{display:block;width:100%;height:auto}
figure.wide{overflow-x:auto}
figure.wide svg{min-width:680px}
svg *{stroke-linejoin:round;stroke-linecap:butt}
svg text{font-family:inherit!important}
figcaption{margin-top:.3rem}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}.unsure{color:var(--faint)}
.good,.bad,.warn{font-weight:600}
details{border:1px solid var(--rule);border-radius:8px;margin:.6rem 0;background:var(--paper)}
summary{cursor:pointer;padding:.6rem .9rem;line-height:1.4}
summary small{color:var(--faint)}
details[open]>summary{border-bottom:1px solid var(--rule)}
.body{padding:.4rem .9rem 1rem}
.film{display:grid;grid-template-columns:repeat(var(--n),minmax(104px,152px));gap:4px;margin:.3rem 0}
.film span{font-size:.78rem;color:var(--faint);text-align:center;font-variant-numeric:tabular-nums}
.film .name{text-align:left;grid-column:1/-1}
.film img{display:block;width:100%;height:auto;border-radius:3px}
.film .none{border:1px dashed var(--rule);border-radius:3px;aspect-ratio:4/3;align-content:center}
.legend{display:flex;flex-wrap:wrap;gap:.15rem 1rem;font-size:.82rem;color:var(--faint);margin:.3rem 0}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em;
 vertical-align:-.05em}
.strip{position:relative;height:1.5rem;margin:.5rem 0 .2rem;background:var(--card);border-radius:3px;
 overflow:hidden}
.strip i{position:absolute;top:.45rem;bottom:.45rem;opacity:.75}
.strip b{position:absolute;top:0;bottom:0;width:3px;margin-left:-1px;border-radius:1px;background:var(--ink)}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));gap:.1rem 1.5rem;
 margin:.5rem 0}
.facts div{display:flex;justify-content:space-between;gap:1rem;
 border-bottom:1px solid var(--rule);padding:.2rem 0;
 font-size:.88rem}
.facts dt{color:var(--faint)}
.facts dd{margin:0;text-align:right;font-variant-numeric:tabular-nums}
.events td:first-child{white-space:nowrap}
@media (max-width:640px){
 main{padding:1.5rem 1rem 3rem}
 h1{font-size:1.5rem}
 .key{grid-template-columns:1fr 1fr}.key dd{font-size:1.3rem}
 table{font-size:.85rem}tbody th{font-size:.85rem}
 td.draw{min-width:5.5rem}
 th,td{padding-right:.55rem}
}
@media print{
 body{font-size:10pt}
 main{max-width:none;padding:0}
 h2,h3,summary{break-after:avoid}
 figure,tr,.notice,.film{break-inside:avoid}
 .scroll,figure.wide{overflow:visible}
 figure.wide svg{min-width:0}
 .plots{grid-template-columns:repeat(auto-fill,minmax(200px,1fr))}
 .scroll .w{white-space:normal;overflow-wrap:anywhere}
 td.t{min-width:0}
 *{print-color-adjust:exact;-webkit-print-color-adjust:exact}
}
"""
)
