"""How few vision tokens are enough? Sweep budgets, fit the law, choose. About ten seconds on a CPU."""

import tokscale
from tokscale import cost, demo

model, processor = demo.load()
questions = demo.samples(128, kind="cell")


def evaluate(patched):
    """A score per task, with the number of questions behind it, so that a fit knows its error."""
    result = demo.evaluate(patched, processor, questions)
    return {"score": result.accuracy, "n_items": result.n}


result = tokscale.sweep(model, ["divprune", "adaptive_pool"], evaluate, budgets=[4, 9, 18, 36, 72, 144], progress=False)
for row in result.rows:
    if row["status"] == "ok":
        print(f"{row['compressor']:>14} {row['mean_tokens']:>6} tokens  accuracy {row['score']:.3f}")

curve = result.filter(compressor="divprune")
fit = tokscale.fit_power_law(curve.num_tokens, curve.scores, n_items=len(questions), floor=0, ceil=1)
print(fit.summary())

budget = fit.budget_for(0.95)
print(
    f"95 % of the score at {fit.n.max():.0f} tokens: the law says {budget.n}, the measurements say {budget.observed:g}"
)
for n in (144, int(budget.observed)):
    print(f"  {n:>3} vision tokens: {cost.prefill_flops(model.config, n, text_tokens=5) / 1e6:.1f} MFLOP of prefill")
