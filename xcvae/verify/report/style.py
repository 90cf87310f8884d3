"""How the HTML report looks: on a wide screen, on a telephone, in the dark and on paper."""

__all__ = ["STYLE"]

STYLE = """
:root { color-scheme: light dark; --text: #222; --faint: #5c5c5c; --page: #fff; --line: #d9d9d9;
  --strong: #222; --best: #e4eff9; --met: #1f6f24; --missed: #b3261e; --warn: #8a5a00;
  --link: #1a5c99; --box: #f6f6f4; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e4e2; --faint: #a9a9a6; --page: #17191b;
  --line: #3a3d40; --strong: #b9b9b6; --best: #1f3a52; --met: #7fce85; --missed: #ff8f87;
  --warn: #f0bf5c; --link: #8cc1f0; --box: #222528; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--text);
  background: var(--page); margin: 0; }
main { max-width: 1120px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 28px; line-height: 1.2; margin: 8px 0 4px; }
h2 { font-size: 22px; line-height: 1.25; margin: 44px 0 8px; border-top: 2px solid var(--strong);
  padding-top: 14px; }
h1, h2, h3, p, figcaption { overflow-wrap: anywhere; }
h3 { font-size: 17px; margin: 26px 0 6px; }
h4 { font-size: 16px; margin: 18px 0 0; }
p, li { max-width: 46em; }
a { color: var(--link); }
nav a { display: inline-block; padding: 4px 16px 4px 0; }
.faint, figcaption { color: var(--faint); font-size: 15px; }
.scroll { overflow-x: auto; margin: 10px 0 20px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 16px 5px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; font-weight: normal; }
thead th { font-weight: 600; border-bottom: 1.5px solid var(--strong); vertical-align: bottom; }
.scores tbody th { min-width: 9em; }
.number, thead th.number { text-align: right; }
td.number { white-space: nowrap; }
.number small, tbody th small { display: block; color: var(--faint); font-size: 13px;
  line-height: 1.35; }
.scores td, .scores thead th + th { padding: 5px 12px; }
.scores thead th { max-width: 11em; }
.best { background: var(--best); font-weight: 600; }
.best small { font-weight: normal; }
.met { color: var(--met); white-space: nowrap; }
.missed, .fault { color: var(--missed); white-space: nowrap; }
.warning { color: var(--warn); }
.findings { margin: 0; }
.findings dt { margin-top: 18px; font-weight: 600; overflow-wrap: anywhere; }
.findings dd { margin: 2px 0 0; max-width: 46em; }
.findings dd.remedy { border-left: 3px solid var(--line); padding-left: 12px; margin-top: 6px; }
figure { margin: 16px 0 28px; }
figcaption { max-width: 52em; margin-top: 6px; }
img { display: block; max-width: 100%; height: auto; }
.wide, .middle { overflow-x: auto; }
.middle img { max-width: min(100%, 860px); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 0 28px; align-items: start; }
@media (max-width: 700px) { .wide img { max-width: none; width: 760px; }
  .middle img { max-width: none; width: 620px; } }
@media screen and (prefers-color-scheme: dark) { img { background: #fff; padding: 6px;
  border-radius: 6px; } }
@page { margin: 14mm; }
@media print {
  :root { --text: #000; --faint: #444; --page: #fff; --line: #ccc; --strong: #000;
    --best: #e4eff9; --met: #1f6f24; --missed: #b3261e; --warn: #8a5a00; }
  body { font-size: 10.5pt; }
  main { max-width: none; padding: 0; }
  nav { display: none; }
  h2 { break-before: page; }
  #training { break-before: auto; }
  h2, h3 { break-after: avoid; }
  figure, tr, dd { break-inside: avoid; }
  .scroll, .wide, .middle { overflow: visible; }
  .scores { font-size: 8.5pt; }
  .scores td, .scores th { padding: 2px 5px 2px 0; }
  .number small, tbody th small { font-size: 7.5pt; }
  .pair { grid-template-columns: 1fr 1fr; }
}
"""
