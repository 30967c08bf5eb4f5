// The openai package from npm: chats, streamed ones, and a loop with tools.
import OpenAI from "openai";

const questions = ["What is a hocket?", "Who wrote the first round?", "How does a bell keep time?"];
const question = (number) => questions[Math.floor(number / 2) % questions.length];
const twice = ' script: search {"q": "a"} | search {"q": "b"} search {"q": "c"} | say That is it.';
const search = {
  name: "search", description: "Look it up.", parse: JSON.parse, function: async () => "nothing found",
  parameters: { type: "object", properties: { q: { type: "string" } } },
};

const client = (where, number, stage, thread = "main") =>
  new OpenAI({ baseURL: `${process.env.RECORDER}/l/${where}/job-${number}/${stage}/${thread}/v1`, apiKey: "none" });

async function chat(number, where, thread, stream) {
  const ask = client(where, number, "chat", thread);
  const messages = [{ role: "system", content: "Be brief." }, { role: "user", content: `${question(number)} (${thread})` }];
  for (const text of ["Tell me more.", "Why?", "Thanks."]) {
    let content = "";
    if (stream) {
      for await (const part of await ask.chat.completions.create({ model: "small", messages, stream: true }))
        content += part.choices[0]?.delta?.content ?? "";
    } else {
      content = (await ask.chat.completions.create({ model: "small", messages })).choices[0].message.content;
    }
    messages.push({ role: "assistant", content }, { role: "user", content: text });
  }
}

async function tools(number) {
  const messages = [{ role: "user", content: question(number) + twice }];
  const runner = client("tools", number, "agent").chat.completions.runTools({
    model: "small", messages, tools: [{ type: "function", function: search }],
  });
  await runner.done();
}

const all = (jobs, program) => Promise.all(Array.from({ length: jobs }, (_, number) => program(number)));
await all(4, (number) => chat(number, "chat", "main", false));
await all(4, (number) => chat(number, "streamed-chat", "main", true));
await all(3, (number) => chat(number, "retries", "main*", false));
await all(4, tools);
