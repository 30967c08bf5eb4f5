// The AI SDK from npm with its OpenAI-compatible provider: loops with tools, and streamed chats.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const questions = ["What is a hocket?", "Who wrote the first round?"];
const twice = ' script: search {"q": "a"} | search {"q": "b"} search {"q": "c"} | say That is it.';
const model = (where, number, stage) =>
  createOpenAICompatible({ name: "local", baseURL: `${process.env.RECORDER}/l/${where}/job-${number}/${stage}/main/v1` })("small");

async function tools(number) {
  await generateText({
    model: model("tools", number, "agent"), system: "You look things up.", stopWhen: stepCountIs(5),
    prompt: questions[number % 2] + twice,
    tools: { search: tool({ description: "Look it up.", inputSchema: z.object({ q: z.string() }), execute: async () => "nothing" }) },
  });
}

async function chat(number) {
  const messages = [{ role: "user", content: questions[number % 2] }];
  for (const text of ["Tell me more.", "Why?", "Thanks."]) {
    const result = streamText({ model: model("streamed-chat", number, "chat"), system: "Be brief.", messages });
    messages.push({ role: "assistant", content: await result.text }, { role: "user", content: text });
  }
}

await Promise.all([0, 1, 2, 3].map(tools));
await Promise.all([0, 1, 2, 3].map(chat));
