"""The paper's figures (arXiv 2406.00323), for the columns "paper" of our tables.

Two of them are inconsistent in the paper itself: LATTICE+BeFA on TMALL with CLIP has NDCG@10 = NDCG@20 = .0183, which
no ranking can give beside its recalls; and FREEDOM+BeFA on TMALL with CLIP reads .0253 .0375 .0136 .0170 in Table 2 but
.0243 .0364 .0131 .0164 in Table 3 (only the latter agrees with the text's averages).
"""

TABLE_1: dict[str, dict[str, float]] = {
    "tmall": {"users": 13_104, "items": 7_848, "interactions": 151_928, "density": 0.00148},
    "microlens": {"users": 46_420, "items": 14_079, "interactions": 332_730, "density": 0.00051},
    "hm": {"users": 43_543, "items": 16_915, "interactions": 369_945, "density": 0.00050},
}
"""Sizes after filtering; the paper says "10-core", which only TMALL's averages allow."""

_COLUMNS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")

_TABLE_2 = """
clip      tmall     bm3     none .0189 .0298 .0102 .0132
clip      tmall     bm3     befa .0212 .0319 .0115 .0144
clip      tmall     lattice none .0238 .0356 .0134 .0167
clip      tmall     lattice befa .0260 .0403 .0183 .0183
clip      tmall     freedom none .0212 .0340 .0113 .0148
clip      tmall     freedom befa .0253 .0375 .0136 .0170
clip      tmall     mgcn    none .0249 .0380 .0135 .0171
clip      tmall     mgcn    befa .0261 .0395 .0142 .0179
clip      microlens bm3     none .0510 .0851 .0278 .0375
clip      microlens bm3     befa .0566 .0911 .0314 .0412
clip      microlens lattice none .0553 .0886 .0308 .0402
clip      microlens lattice befa .0593 .0943 .0328 .0427
clip      microlens freedom none .0474 .0774 .0262 .0348
clip      microlens freedom befa .0503 .0814 .0279 .0368
clip      microlens mgcn    none .0618 .0972 .0342 .0442
clip      microlens mgcn    befa .0630 .1000 .0351 .0456
clip      hm        bm3     none .0204 .0320 .0114 .0144
clip      hm        bm3     befa .0266 .0391 .0157 .0190
clip      hm        lattice none .0289 .0427 .0161 .0197
clip      hm        lattice befa .0317 .0498 .0171 .0217
clip      hm        freedom none .0348 .0526 .0188 .0234
clip      hm        freedom befa .0409 .0583 .0226 .0271
clip      hm        mgcn    none .0367 .0549 .0204 .0251
clip      hm        mgcn    befa .0405 .0594 .0225 .0274
imagebind tmall     bm3     none .0184 .0299 .0097 .0129
imagebind tmall     bm3     befa .0224 .0322 .0125 .0152
imagebind tmall     lattice none .0252 .0374 .0139 .0173
imagebind tmall     lattice befa .0266 .0403 .0147 .0184
imagebind tmall     freedom none .0197 .0319 .0107 .0140
imagebind tmall     freedom befa .0259 .0377 .0141 .0174
imagebind tmall     mgcn    none .0266 .0403 .0144 .0182
imagebind tmall     mgcn    befa .0275 .0414 .0152 .0185
imagebind microlens bm3     none .0508 .0842 .0279 .0373
imagebind microlens bm3     befa .0537 .0877 .0299 .0395
imagebind microlens lattice none .0580 .0953 .0320 .0426
imagebind microlens lattice befa .0633 .1021 .0340 .0451
imagebind microlens freedom none .0613 .0976 .0337 .0440
imagebind microlens freedom befa .0641 .1004 .0356 .0459
imagebind microlens mgcn    none .0693 .1075 .0388 .0496
imagebind microlens mgcn    befa .0702 .1085 .0389 .0498
imagebind hm        bm3     none .0195 .0304 .0107 .0135
imagebind hm        bm3     befa .0248 .0378 .0149 .0183
imagebind hm        lattice none .0293 .0439 .0164 .0202
imagebind hm        lattice befa .0316 .0498 .0171 .0218
imagebind hm        freedom none .0364 .0553 .0192 .0241
imagebind hm        freedom befa .0417 .0613 .0234 .0285
imagebind hm        mgcn    none .0405 .0613 .0218 .0272
imagebind hm        mgcn    befa .0451 .0655 .0246 .0299
"""

Cell = tuple[str, str, str, str]


def _parse(text: str) -> dict[Cell, dict[str, float]]:
    rows = [line.split() for line in text.strip().splitlines()]
    return {
        (dataset, encoder, model, adapter): dict(zip(_COLUMNS, map(float, values), strict=True))
        for encoder, dataset, model, adapter, *values in rows
    }


TABLE_2: dict[Cell, dict[str, float]] = _parse(_TABLE_2)
"""Test metrics by (dataset, encoder, model, adapter)."""
