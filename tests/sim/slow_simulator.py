"""An independent simulator: iteration by iteration, in plain dicts and lists, slow and meant to be read.

It shares nothing with hocket: not the latency formula, not the core, not the heap. Jobs are dicts as in jobs.jsonl,
engines dicts as in engines.yaml. `simulate` returns the JCT of each job in seconds.
"""

EPS = 1e-9  # moments closer than this are one moment


def simulate(jobs, engines, policy):
    """JCT by job. `policy` is 'fcfs' (by job arrival) or 'oracle' (least unloaded seconds left)."""
    world = World(jobs, engines, policy)
    while len(world.jct) < len(jobs):
        world.step()
    return world.jct


def unloaded(engine, stage):
    """Seconds of a call alone on an engine: its prefill, then one iteration for each further token."""
    c, p = engine["latency"], stage["prompt_tokens"]
    total = c.get("q0", 0) + c.get("q1", 0) * p**2 + c.get("q2", 0) * p
    for n in range(1, max(stage["output_tokens"], 1)):
        per_call = 0 if engine.get("decode") == "slowest" else c.get("d1", 0)
        total += c.get("d0", 0) + per_call + c.get("d2", 0) * (p + n)
    return total


class World:
    def __init__(self, jobs, engines, policy):
        self.jobs = sorted(jobs, key=lambda j: j["arrival_s"])
        self.policy = policy
        self.now = 0.0
        self.jct = {}
        self.arrived = 0
        self.ended = {j["job"]: set() for j in jobs}
        self.answered = set()  # (job, stage) of calls that are complete
        self.begun = {j["job"]: set() for j in jobs}
        self.rank = {j["job"]: i for i, j in enumerate(self.jobs)}
        self.tools = []  # (end, number, job, stage)
        self.serial = 0
        self.engines = {e["name"]: e for e in engines}
        self.serves = {}
        for e in engines:
            for m in e["models"]:
                self.serves.setdefault(m, e["name"])
        self.queue = {e["name"]: [] for e in engines}  # calls that wait in the scheduler
        self.replicas = [Replica(e) for e in engines for _ in range(e.get("replicas", 1))]

    def remaining(self, job):
        calls = (s for s in job["stages"] if s["kind"] == "llm" and (job["job"], s["id"]) not in self.answered)
        return sum(unloaded(self.engines[self.serves[s["model"]]], s) for s in calls)

    def step(self):
        """Go to the next moment at which anything happens."""
        times = [r.until for r in self.replicas if r.until is not None] + [t[0] for t in self.tools]
        if self.arrived < len(self.jobs):
            times.append(self.jobs[self.arrived]["arrival_s"])
        self.now = min(times)
        while self.arrived < len(self.jobs) and self.jobs[self.arrived]["arrival_s"] <= self.now + EPS:
            self.arrived += 1
            self.reveal(self.jobs[self.arrived - 1])
        self.end_tools()
        for replica in self.replicas:
            if replica.until is not None and replica.until <= self.now + EPS:
                finished = replica.finish_iteration()
                for call in finished:
                    self.answered.add((call["job"]["job"], call["stage"]["id"]))
                    self.dispatch(replica.engine["name"])
                for call in finished:
                    self.end(call["job"], call["stage"])
                self.end_tools()  # those that take no time
        for replica in self.replicas:
            if replica.until is None:
                replica.start_iteration(self.now)

    def end_tools(self):
        while self.tools and min(self.tools)[0] <= self.now + EPS:
            tool = min(self.tools)
            self.tools.remove(tool)
            self.end(tool[2], tool[3])

    def end(self, job, stage):
        name = job["job"]
        self.ended[name].add(stage["id"])
        self.reveal(job)
        if len(self.ended[name]) == len(job["stages"]):
            self.jct[name] = self.now - job["arrival_s"]

    def reveal(self, job):
        for stage in job["stages"]:
            known = stage["id"] in self.begun[job["job"]]
            if known or not set(stage.get("needs", ())) <= self.ended[job["job"]]:
                continue
            self.begun[job["job"]].add(stage["id"])
            self.serial += 1
            if stage["kind"] == "tool":
                self.tools.append((self.now + stage["duration_s"], self.serial, job, stage))
            else:
                engine = self.serves[stage["model"]]
                call = {"job": job, "stage": stage, "number": self.serial, "made": 0}
                self.queue[engine].append(call)
                self.dispatch(engine)

    def dispatch(self, engine):
        """While a replica has a free slot, the first waiting call goes to the least loaded one."""
        while self.queue[engine]:
            free = [r for r in self.replicas if r.engine["name"] == engine and r.load() < r.engine["max_concurrency"]]
            if not free:
                return
            call = min(self.queue[engine], key=self.order)
            self.queue[engine].remove(call)
            min(free, key=Replica.load).take(call)

    def order(self, call):
        name = call["job"]["job"]
        first = round(self.remaining(call["job"]), 9) if self.policy == "oracle" else 0
        return (first, self.rank[name], call["number"])


class Replica:
    def __init__(self, engine):
        self.engine = engine
        self.waiting, self.running, self.fresh = [], [], []
        self.until = None  # when this iteration ends; None: none is under way
        self.taken = 0
        self.cache = []  # [key, tokens], the longest unused first

    def load(self):
        return len(self.waiting) + len(self.running) + len(self.fresh)

    def take(self, call):
        self.taken += 1
        self.waiting.append(call | {"order": self.taken})

    def kv(self):
        return sum(c["stage"]["prompt_tokens"] + c["made"] for c in self.running + self.fresh)

    def finish_iteration(self):
        self.until = None
        self.running += self.fresh
        self.fresh = []
        for call in self.running:
            call["made"] += 1
        done = [c for c in self.running if c["made"] >= max(c["stage"]["output_tokens"], 1)]
        self.running = [c for c in self.running if c not in done]
        for call in done:
            key = (call["job"]["job"], call["stage"]["id"])
            self.cache.append([key, call["stage"]["prompt_tokens"] + call["made"]])
        return done

    def start_iteration(self, now):
        limit = self.engine.get("kv_tokens") or float("inf")
        while self.kv() > limit and len(self.running) > 1:
            self.cache = []
            last = max(self.running, key=lambda c: c["order"])
            self.running.remove(last)
            self.waiting.insert(0, last)
        c = self.engine["latency"]
        slowest = self.engine.get("decode") == "slowest"
        held = [r["stage"]["prompt_tokens"] + r["made"] for r in self.running]
        seconds = 0.0
        if held:
            seconds = c.get("d2", 0) * max(held) if slowest else c.get("d1", 0) * len(held) + c.get("d2", 0) * sum(held)
        while self.waiting and self.load() - len(self.waiting) < self.engine["max_concurrency"]:
            call = self.waiting[0]
            p = call["stage"]["prompt_tokens"] + call["made"]
            if self.kv() + p > limit and self.running + self.fresh:
                break
            p -= self.hit(call, limit)
            seconds += c.get("q1", 0) * p**2 + c.get("q2", 0) * p
            self.fresh.append(self.waiting.pop(0))
        if not self.running and not self.fresh:
            return
        self.until = now + seconds + max(c.get("q0", 0) * bool(self.fresh), c.get("d0", 0) * bool(self.running))

    def hit(self, call, limit):
        """Tokens of the shared prefix that lie in this replica."""
        shared = call["stage"].get("shares_prefix")
        if not self.engine.get("prefix_cache") or not shared:
            return 0
        while self.cache and self.kv() + sum(n for _, n in self.cache) > limit:
            over = self.kv() + sum(n for _, n in self.cache) - limit
            self.cache[0][1] -= min(over, self.cache[0][1])
            if self.cache[0][1] == 0:
                self.cache.pop(0)
        key = (call["job"]["job"], shared["stage"])
        for other in self.running:
            if (other["job"]["job"], other["stage"]["id"]) == key:
                return min(shared["tokens"], other["stage"]["prompt_tokens"] + other["made"])
        for entry in self.cache:
            if entry[0] == key:
                self.cache.remove(entry)
                self.cache.append(entry)
                return min(shared["tokens"], entry[1])
        return 0
