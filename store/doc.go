// Package store keeps the state of the daemon on disk, in one bbolt file. Nothing else imports
// bbolt.
//
// It may import the leaves and the domains, whose Store interfaces *Store satisfies: nodes.Store,
// approvals.Store, runs.Store, system.EventQueue and the device store of identity. It owns one goroutine, which makes every
// commit; Close waits for it.
//
// # Files
//
//	<dir>/            0700
//	  hanzod.db       0600  the database
//	  hanzod.db.new   0600  a database being made; left over only by a crash, then made anew
//	  audit.head      0600  the newest row of the audit log and its hash, written after each commit;
//	                        says at the next start whether the log was cut or put back
//	  .restore/       0700  a restore being prepared, or to be finished: see runtime/backup
//	  replaced-*/     0700  files that a restore replaced
//	  .backup-*       0600  the copy of the database while a backup is made, where it has a name at all
//	  agents/<id>/sessions/
//	                  0700  transcripts, files of lines that only grow (*.jsonl), and those that were put aside
//	  journal/        0700  what was appended to transcripts since they were synced: see package journal
//	  hanzod.lock     0600  locked by the kernel for as long as a daemon has the store open; its
//	                        text names the holder for people and decides nothing
//
// # Schema
//
// The root holds these buckets:
//
//	meta
//	  schema                       8 bytes big endian: number of the last migration that ran
//	  readable_from                8 bytes big endian: the oldest schema whose hanzod may open this file;
//	                               without it that is schema
//	  touched_by                   8 bytes big endian: the oldest schema whose hanzod wrote to this file of
//	                               a newer one; gone once the newer one has opened it again
//	  voice_wake                   record: the words that wake voice clients, when somebody set some
//	devices
//	  <device id>                  record: one paired device with its tokens (secrets)
//	node_names
//	  <node id>                    record: the name that people gave the node
//	approvals                      in order of creation
//	  <created> <approval id>      record: one approval
//	approvals_live                 those pending or allowed, in order of creation
//	  <created> <approval id>      nothing
//	approval_ids
//	  <approval id>                <created>
//	audit                          append only; past a bound the oldest rows go
//	  <sequence>                   32 bytes, the hash of the row (see approvals/audit), then a record:
//	                               one row; the key is 8 bytes big endian, counts from 1, without gaps
//	audit_meta                     the ends of the audit log
//	  base                         the last row that was removed: sequence, hash, 8 zero bytes
//	  head                         the newest row: sequence, hash, bytes of all records that are kept
//	audit_open                     runs that began and whose end is not in the log yet
//	  <run id>                     the sequence of the row of kind use, 8 bytes big endian
//	grants                         what may run without asking again
//	  <grant id>                   record: one grant; the ids sort by time of creation
//	runs                           commands that the daemon keeps until their requester got the result
//	  <run id>                     record: one run (secrets as long as it has not left)
//	run_output                     what they wrote
//	  <run id>                     record: what one run wrote, once it has ended
//	device_requests
//	  <request id>                 record: a device that waits for an answer, at most five minutes
//	invites
//	  <SHA-256 of the secret, hex> record: an invite that was not used yet
//	node_requests
//	  <request id>                 record: a node that waits for an answer, at most five minutes
//	node_pairings
//	  <node id>                    record: one paired node with its token (a secret)
//	push_registrations
//	  <node id>                    record: where pushes for the node go
//	settings                       what people switched by hand
//	  <name>                       record: one of them
//	sessions
//	  <agent id> 00 <session key>  record: one session entry, but for fields that may be large
//	session_rest
//	  <agent id> 00 <session key>  record: its other fields, by their names in the legacy format
//	session_moves                  transcripts to be put aside; gone once they are
//	  <sequence>                   record: one of them; sequence is 8 bytes big endian
//	cron_jobs
//	  <job id>                     record: one scheduled job with its state
//	cron_runs                      what became of each slot; the sequence counts the rows of all jobs
//	  <job id> 00 <sequence>       record: one run, or a slot that was left out
//	link_keys                      what lets instances link
//	  <link key id>                record: one key, without its secret
//	links                          which instances were linked of late
//	  <node id>                    record: the last link of one
//	terminals                      which terminals are open at nodes, for the next daemon to join
//	  <terminal id>                record: one terminal with its owner
//	tech_sessions                  technician sessions, also closed ones
//	  <session id>                 record: one of them
//	tech_holds
//	  <node id>                    id of the session that holds the node
//	tech_order
//	  <opened> <session id>        nothing: the order in which they were opened
//	tech_audit                     what was done in them
//	  <sequence>                   record: one row
//	tech_audit_of
//	  <session id> 00 <sequence>   nothing: the rows of one session
//	system_events
//	  <session> 00 <sequence>      record: what an agent is to be told; sequence is 8 bytes big endian
//
// <created> is the time in nanoseconds since 1970, 8 bytes big endian. A record is one byte, the
// version of its layout, and then a JSON object whose layout is the struct with the same name in
// the file of its domain. The id is not repeated in the record.
//
// # Rules for changing it
//
// A new field gets a name of its own and a zero value that means what its absence meant before;
// that needs nothing else. A field that changes its meaning needs the next record version, and the
// decoder keeps reading the old one. A new bucket, or another key layout, needs a migration: a
// function of its own at the end of the list in schema.go, and a file in testdata from before it
// with a test. The files there are never written again.
//
// # Upgrades and the way back
//
// An older hanzod opens a database of a newer schema when readable_from allows it, so that an upgrade
// whose program does not come up can be undone without losing what was acknowledged meanwhile. It leaves
// alone the buckets that it does not know, and carries the fields of records that it does not know when it
// writes them over. So a migration keeps readableFrom where it is when it only adds:
//
//   - It adds buckets, keys of meta or fields. It changes no key, no record version and no meaning, and
//     adds no value to a field whose old values are all that an older decoder takes.
//   - It can run again, over what an older hanzod has written since: it makes what is missing, and fills an
//     index anew.
//   - What it adds holds no secret that has to go when the record changes: an older hanzod carries it on.
//
// Any other migration sets readableFrom to its own number. "hanzod service upgrade" does not cross that
// line unless it is told to, because there is no way back over it but a backup.
//
// # Writes
//
// A write waits in a bounded queue. The writer takes all that wait, runs them in one transaction
// and answers after the sync; while it syncs, the next ones gather. So a lone write costs exactly
// one commit and many writes share one, without a timer. A nil error means that the write is on
// disk. Any other error means that it is not, unless its class is errs.Unknown.
//
// After a failed commit the store refuses every later write and calls Options.OnFatal once: what
// the kernel did with the pages of a failed sync cannot be known, so the daemon has to start anew.
package store
