"""DSPy (LiteLLM underneath): a program of two modules. Its calls share nothing but the header that the program adds."""

import asyncio

import dspy
from labels import question, url

SAY = " script: say [[ ## {field} ## ]]\nYes ({number}).\n\n[[ ## completed ## ]] endscript"


async def program(number: int) -> None:
    def model(stage: str, thread: str) -> dspy.LM:
        where = url("two-modules", f"job-{number}", stage, thread)
        headers = {"x-litellm-session-id": f"run-{number}"}
        return dspy.LM("openai/small", api_base=where, api_key="none", cache=False, extra_headers=headers)

    plan, answer = dspy.Predict("question -> plan"), dspy.Predict("question, plan -> answer")
    text = question(number)
    with dspy.context(lm=model("plan", "main")):
        planned = await plan.acall(question=text + SAY.format(field="plan", number=number))
    with dspy.context(lm=model("answer", "answer!")):
        said = SAY.format(field="answer", number=number)
        await answer.acall(question=text + said, plan=f"{planned.plan}")


async def main() -> None:
    await asyncio.gather(*(program(number) for number in range(6)))


asyncio.run(main())
