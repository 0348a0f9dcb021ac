"""From text to verdict: normalisation, exact numbers, and math-verify in a process that can be killed. No torch."""
