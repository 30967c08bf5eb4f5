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
	parent TEXT NOT NULL, 
	max_tokens BIGINT NOT NULL, 
	hint_output_tokens BIGINT NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	arrived_s DOUBLE NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	engine TEXT NOT NULL, 
	replica TEXT NOT NULL, 
	attempts INTEGER NOT NULL, 
	dispatched_s DOUBLE, 
	started_s DOUBLE, 
	first_token_s DOUBLE, 
	ended_s DOUBLE, 
	outcome TEXT NOT NULL, 
	reason TEXT NOT NULL, 
	status INTEGER NOT NULL, 
	PRIMARY KEY (job_id, n)
)
 WITHOUT ROWID

;
INSERT INTO "calls" VALUES(1000,0,'call-1','plan','small',1,'',100,0,182,0.0,96,'small','small/0',1,0.0,0.0,0.25,1.5,'finished','',0);
INSERT INTO "calls" VALUES(1000,2,'call-2','answer','small',1,'plan',0,0,425,3.75,210,'small','small/1',2,4.0,4.5,NULL,7.0,'finished','reset',0);
INSERT INTO "calls" VALUES(1001,0,'call-3','call','small',2,'',0,0,50,0.0,0,'small','small/0',1,0.0,NULL,NULL,NULL,'','',0);
CREATE TABLE jobs (
	id BIGINT NOT NULL, 
	run BIGINT NOT NULL, 
	job TEXT NOT NULL, 
	tenant TEXT NOT NULL, 
	app TEXT NOT NULL, 
	urgency INTEGER NOT NULL, 
	arrived_at DOUBLE NOT NULL, 
	deadline_s DOUBLE NOT NULL, 
	features TEXT NOT NULL, 
	state TEXT NOT NULL, 
	ended_s DOUBLE, 
	calls INTEGER NOT NULL, 
	tool_runs INTEGER NOT NULL, 
	prompt_tokens BIGINT NOT NULL, 
	output_tokens BIGINT NOT NULL, 
	wait_s DOUBLE NOT NULL, 
	trace TEXT NOT NULL, 
	PRIMARY KEY (id)
)
 WITHOUT ROWID

;
INSERT INTO "jobs" VALUES(1000,1000,'report-1','team-a','report',1,1790000001.0,60.0,'{"words":12.0}','closed',7.0,2,1,607,306,0.25,'');
INSERT INTO "jobs" VALUES(1001,1000,'chat-7','team-b','chat',2,1790000009.0,0.0,'','open',NULL,1,0,0,0,0.0,'');
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
	parent TEXT NOT NULL, 
	started_s DOUBLE NOT NULL, 
	ended_s DOUBLE, 
	outcome TEXT NOT NULL, 
	PRIMARY KEY (job_id, n)
)
 WITHOUT ROWID

;
INSERT INTO "tool_runs" VALUES(1000,1,'run-1','search','',1.75,3.75,'finished');
CREATE INDEX jobs_arrived_at ON jobs (arrived_at);
CREATE INDEX jobs_job ON jobs (job);
COMMIT;
