-- A history of the first schema, as a gateway that was killed has left it: one job done, one open.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0001');
CREATE TABLE calls (
	job_id BIGINT NOT NULL, 
	n INTEGER NOT NULL, 
	call TEXT NOT NULL, 
	stage TEXT NOT NULL, 
	model TEXT NOT NULL, 
	urgency INTEGER NOT NULL, 
	parent TEXT, 
	max_tokens BIGINT, 
	hint_output_tokens BIGINT, 
	prompt_tokens BIGINT NOT NULL, 
	arrived_s DOUBLE NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	engine TEXT, 
	replica TEXT, 
	attempts INTEGER NOT NULL, 
	dispatched_s DOUBLE, 
	started_s DOUBLE, 
	first_token_s DOUBLE, 
	ended_s DOUBLE, 
	outcome TEXT, 
	reason TEXT, 
	status INTEGER, 
	PRIMARY KEY (job_id, n)
)
 WITHOUT ROWID

;
INSERT INTO "calls" VALUES(1000,0,'call-1','plan','small',1,NULL,100,NULL,182,0.0,96,'small','small/0',1,0.0,0.0,0.25,1.5,'finished',NULL,NULL);
INSERT INTO "calls" VALUES(1000,2,'call-2','answer','small',1,'plan',NULL,NULL,425,3.75,210,'small','small/1',2,4.0,4.5,NULL,7.0,'finished','reset',NULL);
INSERT INTO "calls" VALUES(1001,0,'call-3','call','small',2,NULL,NULL,NULL,50,0.0,0,'small','small/0',1,0.0,NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE jobs (
	id BIGINT NOT NULL, 
	run BIGINT NOT NULL, 
	job TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	app TEXT NOT NULL, 
	urgency INTEGER NOT NULL, 
	arrived_at DOUBLE NOT NULL, 
	deadline_s DOUBLE, 
	features TEXT, 
	state TEXT NOT NULL, 
	ended_s DOUBLE, 
	calls INTEGER NOT NULL, 
	tool_runs INTEGER NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	wait_s DOUBLE NOT NULL, 
	trace TEXT, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;
INSERT INTO "jobs" VALUES(1000,1000,'report-1','team-a','report',1,1790000001.0,60.0,'{"words":12.0}','closed',7.0,2,1,607,306,0.25,NULL);
INSERT INTO "jobs" VALUES(1001,1000,'chat-7','team-b','chat',2,1790000009.0,NULL,NULL,'open',NULL,1,0,0,0,0.0,NULL);
CREATE TABLE runs (
	id BIGINT NOT NULL, 
	kind TEXT NOT NULL, 
	host TEXT NOT NULL, 
	pid INTEGER NOT NULL, 
	hocket TEXT NOT NULL, 
	policy TEXT NOT NULL, 
	started_at DOUBLE NOT NULL, 
	seen_at DOUBLE NOT NULL, 
	ended_at DOUBLE, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;
INSERT INTO "runs" VALUES(1000,'gateway','elsewhere',7,'0.1.0','las',1790000000.0,1790000030.0,NULL);
CREATE TABLE tool_runs (
	job_id BIGINT NOT NULL, 
	n INTEGER NOT NULL, 
	run TEXT NOT NULL, 
	name TEXT NOT NULL, 
	parent TEXT, 
	started_s DOUBLE NOT NULL, 
	ended_s DOUBLE, 
	outcome TEXT, 
	PRIMARY KEY (job_id, n)
)
 WITHOUT ROWID

;
INSERT INTO "tool_runs" VALUES(1000,1,'run-1','search',NULL,1.75,3.75,'finished');
CREATE INDEX jobs_arrived_at ON jobs (arrived_at);
CREATE INDEX jobs_job ON jobs (job);
CREATE INDEX jobs_open ON jobs (run) WHERE state = 'open';
COMMIT;
