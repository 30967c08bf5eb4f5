"""Applications that ask several models, each for what it is good at: what a plan of engines is made for.

Their stages name their own models (`generator`, `reward`, ...): `--models` has no say.
"""

from __future__ import annotations

from hocket.sim.workloads.chain import PROBLEM_TOKENS, PROGRAM_TOKENS, REFLECTION_TOKENS, REPAIRS
from hocket.sim.workloads.draft import KEEP_SECONDS, SEARCH_SECONDS, Draft
from hocket.sim.workloads.draws import one, tokens
from hocket.sim.workloads.planning import ANSWER_TOKENS
from hocket.trace import Stage

REWRITE_PROMPT, REWRITE_TOKENS = 180, (12, 15, 18, 24, 32, 44, 60, 75, 100, 120)
"no source: instructions and the conversation's last turn; the query that is searched"
QUESTION_TOKENS = (12, 13, 15, 18, 21, 25, 32, 37, 40, 40)
"a question; HotpotQA as in `web-search`"
PASSAGES = {16: 1, 32: 2, 48: 1}
"no source: passages that a search brings back; each is scored against the question by the reranker"
PASSAGE_TOKENS = (90, 130, 160, 220, 300, 400, 480, 510, 512, 512)
"no source: passages are cut at 512 tokens, as retrievers cut them"
KEPT, RERANK_PROMPT, RAG_PROMPT = 5, 60, 220
"no source: passages that the generator reads; instructions"

CALLS = (24, 27, 31, 42, 64, 110, 200, 300, 560, 844)
"""calls of the generator a job. Scepsy (arXiv 2604.15186) reports 24 to 844; between them no source, but for the tree
of thoughts' 49 to 143 on the game of 24 (princeton-nlp/tree-of-thought-llm)"""
BEAM = {4: 1, 8: 2, 16: 1}
"no source: candidates of a level"
STEP_TOKENS = (8, 14, 18, 28, 45, 70, 105, 135, 220, 256)
"no source: one step of a solution"
BEAM_PROMPT, REWARD_PROMPT, FEWEST_LEVELS = 120, 40, 2
"no source: instructions"

CREW_PROMPT, PLAN_TOKENS = 600, (60, 85, 100, 140, 190, 260, 340, 400, 520, 600)
"no source: instructions and context of the planner; its plan"
PARTS = {1: 3, 2: 4, 3: 2, 4: 1}
"no source: parts of a plan that are coded side by side"
CODE_PROMPT, CRITIC_PROMPT, PARTS_OF_PROGRAM = 420, 350, 4
"no source: instructions; a part is as long as so many programs of `code-generation`"


def rag(draft: Draft) -> None:
    """Rewrite the question, search, rerank each passage, answer from the best: `rewriter`, `reranker`, `generator`."""
    draws = draft.draws
    question = draws.tokens(QUESTION_TOKENS)
    rewrite = draft.llm("rewrite", "rewriter", [], REWRITE_PROMPT + question, draws.tokens(REWRITE_TOKENS))
    search = draft.tool("search", [rewrite], SEARCH_SECONDS)
    passages = [draws.tokens(PASSAGE_TOKENS) for _ in range(draws.one(PASSAGES))]
    scores = [
        draft.llm(f"rerank{number}", "reranker", [search], RERANK_PROMPT + question + passage, 1, name="rerank")
        for number, passage in enumerate(passages)
    ]
    prompt = RAG_PROMPT + question + sum(passages[:KEPT])
    draft.llm("answer", "generator", scores, prompt, draws.tokens(ANSWER_TOKENS))


def beam_search(draft: Draft) -> None:
    """Write candidates for the next step, score each, go on from the best: `beam-generator` and `reward`."""
    draws = draft.draws
    width = draws.one(BEAM)
    question = draws.tokens(PROBLEM_TOKENS)
    done, kept = 0, list[Stage]()
    for level in range(max(FEWEST_LEVELS, round(draws.tokens(CALLS) / width))):
        scores: list[Stage] = []
        written: list[int] = []
        for place in range(width):
            step = draws.tokens(STEP_TOKENS)
            prompt = BEAM_PROMPT + question + done
            candidate = draft.llm(f"step{level}.{place}", "beam-generator", kept, prompt, step, name="step")
            prompt = REWARD_PROMPT + question + done + step
            scores.append(draft.llm(f"score{level}.{place}", "reward", [candidate], prompt, 1, name="score"))
            written.append(step)
        kept = [draft.tool(f"keep{level}", scores, KEEP_SECONDS, name="keep")]
        done += draws.choice(written)


def coding_crew(draft: Draft) -> None:
    """A planner splits the task; coders write the parts, a critic has them repaired: `planner`, `coder`, `critic`."""
    draws = draft.draws
    asked = draws.score()
    problem = PARTS_OF_PROGRAM * tokens(PROBLEM_TOKENS, asked)
    plan = draft.llm("plan", "planner", [], CREW_PROMPT + problem, draws.tokens(PLAN_TOKENS))
    context = CODE_PROMPT + problem + plan.output_tokens
    ends, written = list[Stage](), 0
    for part in range(draws.one(PARTS)):
        repairs = min(one(REPAIRS, draws.score()), 2)
        program = PARTS_OF_PROGRAM * draws.tokens(PROGRAM_TOKENS[min(repairs, 1)])
        last, said = plan, 0
        for turn in range(repairs + 1):
            code = draft.llm(
                *(f"code{part}.{turn}", "coder", [last], context + (program + said if turn else 0), program),
                name="repair" if turn else "code",
                revealed_by=plan if not turn else last,
            )
            said = 2 * draws.tokens(REFLECTION_TOKENS)
            last = draft.llm(
                *(f"review{part}.{turn}", "critic", [code], CRITIC_PROMPT + problem + program, said),
                name="review",
                revealed_by=plan if not turn else code,
            )
        ends.append(last)
        written += program
    draft.llm("merge", "planner", ends, CREW_PROMPT + problem + written, draws.tokens(PLAN_TOKENS), revealed_by=plan)
