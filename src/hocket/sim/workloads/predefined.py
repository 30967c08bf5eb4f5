"""Applications whose graph is known beforehand: Graph of Thoughts (Besta et al., AAAI 2024; spcl/graph-of-thoughts).

The widths are those of the published graphs of operations, the prompts those of the published programs, in tokens of
the encoding cl100k_base.
"""

from __future__ import annotations

from hocket.sim.workloads.draft import KEEP_SECONDS, Draft
from hocket.trace import Stage

LENGTHS = (32, 64, 128)
"numbers to sort. examples/sorting: 100 lists of each length"
PART = 16
"numbers that one call sorts; same source"
TOKENS_PER_NUMBER = 3
"`[1, 2, 3]`: a list of n digits takes 3 n tokens; counted"
SPLIT_PROMPT = {32: 347, 64: 627, 128: 1163}
"instructions with examples, without the list; counted, as are the next three"
SORT_PROMPT = 723
MERGE_PROMPT = 162
IMPROVE_PROMPT = 1287
SPLIT_NAMES = 9
"tokens that name one part in the answer of the split; counted in the published run"
SORT_SAMPLES, MERGE_SAMPLES, IMPROVE_SAMPLES, LAST_IMPROVE_SAMPLES = 5, 10, 5, 10
"answers to one prompt, of which the best is kept; same source"
IMPROVE_RATIO = (1.02, 1.03, 1.05, 1.22, 1.36, 1.51, 1.65, 1.72, 1.77, 1.78)
"an improved list with the reason for it, over the list alone; the 10 answers of the published run"

ANSWER_LIMIT = 1536
"`max_tokens` of every call; language_models/config_template.json"

DOCUMENT_TOKENS = (130, 137, 159, 206, 277, 368, 466, 480, 484, 484)
"a document. examples/doc_merge: 100 problems of four documents; their sizes do not go together (|r| <= 0.13)"
DOCUMENTS = 4
WRITE_PROMPT, SCORE_PROMPT, COMBINE_PROMPT, REFINE_PROMPT = 87, 219, 106, 99
"instructions and marks around the documents; counted in the published run"
DRAFTS, SCORERS, BEST, COMBINED, REFINED = 5, 3, 3, 5, 10
"answers to one prompt, calls that score one answer, answers that are combined; same source"
WRITE_RATIO = (0.914, 0.915, 0.916, 0.92, 0.934, 0.934, 0.949, 0.954, 0.958, 0.959)
"a merged document over the four; the 5 answers of the published run"
COMBINE_RATIO = (0.732, 0.756, 0.779, 0.849, 0.901, 0.911, 0.925, 0.929, 0.933, 0.934)
"as WRITE_RATIO, where merged documents are merged; 5 answers"
REFINE_RATIO = (0.283, 0.295, 0.306, 0.395, 0.867, 0.875, 0.922, 0.929, 0.935, 0.936)
"as WRITE_RATIO, where one is improved; 10 answers, 4 of them much shorter"
SCORE_TOKENS = (156, 158, 160, 168, 189, 196, 210, 216, 221, 222)
"a score with its reasons; 6 answers of the published run"


def sequence_sorting(draft: Draft) -> None:
    """Split a list, sort the parts, merge them pair by pair; of several answers keep the best (Graph of Thoughts)."""
    count = draft.draws.choice(LENGTHS)
    parts, listed = count // PART, TOKENS_PER_NUMBER * count
    draft.limit = ANSWER_LIMIT
    split = draft.llm("split", "small", [], SPLIT_PROMPT[count] + listed, listed + SPLIT_NAMES * parts)
    size = TOKENS_PER_NUMBER * PART
    level = []
    for part in range(parts):
        outputs = [size] * SORT_SAMPLES
        answers = draft.samples(
            f"sort.{part}", "small", [split], SORT_PROMPT + size, outputs, name="sort", common=SORT_PROMPT
        )
        level.append(_best(draft, f"best-sort.{part}", answers))
    turn = 0
    while len(level) > 1:
        size, turn, halves = 2 * size, turn + 1, level
        samples = LAST_IMPROVE_SAMPLES if len(halves) == 2 else IMPROVE_SAMPLES
        level = [
            _merged(draft, f"{turn}", pair // 2, halves[pair : pair + 2], size, samples)
            for pair in range(0, len(halves), 2)
        ]


def _merged(draft: Draft, turn: str, pair: int, halves: list[Stage], size: int, samples: int) -> Stage:
    """Merge two sorted lists into one of `size` tokens, then improve it."""
    draws, place = draft.draws, f"{turn}.{pair}"
    merges = draft.samples(
        *(f"merge{place}", "small", halves, MERGE_PROMPT + size, [size] * MERGE_SAMPLES),
        name=f"merge{turn}",
        common=MERGE_PROMPT,
    )
    best = _best(draft, f"best-merge{place}", merges)
    improved = draft.samples(
        *(f"improve{place}", "small", [best], IMPROVE_PROMPT + 2 * size),
        [round(size * draws.value(IMPROVE_RATIO)) for _ in range(samples)],
        name=f"improve{turn}",
        common=IMPROVE_PROMPT,
    )
    return _best(draft, f"best-improve{place}", improved)


def document_merging(draft: Draft) -> None:
    """Merge four documents: write drafts, score each, combine the best, refine that (Graph of Thoughts)."""
    draws = draft.draws
    size = sum(draws.tokens(DOCUMENT_TOKENS) for _ in range(DOCUMENTS))
    draft.limit = ANSWER_LIMIT
    texts, best = _scored(draft, "write", [], size, WRITE_PROMPT + size, DRAFTS, WRITE_RATIO)
    read = sum(text.output_tokens for text in draws.sample(texts, BEST))
    texts, best = _scored(draft, "combine", [best], size, COMBINE_PROMPT + size + read, COMBINED, COMBINE_RATIO)
    read = draws.choice(texts).output_tokens
    _scored(draft, "refine", [best], size, REFINE_PROMPT + size + read, REFINED, REFINE_RATIO)


def _scored(
    draft: Draft, name: str, needs: list[Stage], size: int, prompt: int, count: int, ratios: tuple[float, ...]
) -> tuple[list[Stage], Stage]:
    """`count` answers to one prompt about documents of `size` tokens, each scored three times; and their best."""
    draws = draft.draws
    outputs = [round(size * draws.value(ratios)) for _ in range(count)]
    texts = draft.samples(name, "large", needs, prompt, outputs, name=name)
    scores: list[Stage] = []
    for number, text in enumerate(texts):
        answers = [draws.tokens(SCORE_TOKENS) for _ in range(SCORERS)]
        read = SCORE_PROMPT + size + text.output_tokens
        scores += draft.samples(f"score-{name}.{number}", "medium", [text], read, answers, name=f"score-{name}")
    return texts, _best(draft, f"best-{name}", scores)


def _best(draft: Draft, id_: str, answers: list[Stage]) -> Stage:
    """The application compares the answers and keeps the best; from here only that one is known."""
    return draft.tool(id_, answers, KEEP_SECONDS, name=id_.partition(".")[0])
