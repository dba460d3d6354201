//! Conformance cases: what a client sends and what it must get back, as text that people read.
//!
//! The files `conformance/*.txt` of this package are the cases; [`parse`] reads them, [`Runner`] plays
//! them to a server over plain TCP and compares bytes. The same cases run against C dqlite and
//! against ours. Where an old C library is known to answer otherwise, the case says so next to the
//! expectation, so the differences are data as well.
//!
//! # The language
//!
//! One step a line; `#` begins a comment. A case runs from its `case` line to the next one.
//!
//! ```text
//! case 92 "EXEC refuses a statement that yields a row"    number, letter if need be, title
//! needs cluster                  what it takes: `cluster`, `restart` or `clients`; else one node
//! skip c "the process dies"      not run there, and why
//! settings busy_timeout=400      of the node, in milliseconds; or `null_in_typed_columns`
//!
//! open                           connect, protocol word 1, OPEN "$db", which must succeed
//! X "select 1" i5 t"x"           one request; here EXEC_SQL with parameters
//! expect FAILURE 1 "rows …"      exactly this message comes next
//! instead c-1.11.1 FAILURE 100 "…"    but there, this one
//! ```
//!
//! `A:` … `Z:` before a step names its connection, A if there is none; `dq:` or `c-1.11.1,c:` before
//! that confines the step to these targets (`c` stands for every version of C).
//!
//! **Requests**: `LEADER`, `CLIENT id`, `OPEN name [flags vfs]`, `P sql` (PREPARE), `P1 sql` (with
//! schema 1), `x stmt values…` (EXEC), `q stmt values…` (QUERY), `fin stmt`, `X sql values…`
//! (EXEC_SQL), `Q sql values…` (QUERY_SQL), `INTERRUPT`, `CONNECT id address`, `ADD id address`,
//! `ASSIGN id role`, `PROMOTE id`, `REMOVE id`, `DUMP name`, `CLUSTER format`, `TRANSFER id`,
//! `DESCRIBE format`, `WEIGHT n`, `MESSAGE type schema bytes…` (any body). `schema=2`, `extra=7` and
//! `db=1` before one change these fields. In place of values, `raw bytes…` is a tuple as it stands.
//! `do sql values…` is `X` that must end in any RESULT.
//!
//! **Texts** are in double quotes with `\n`, `\t`, `\"`, `\\`, `\$` and `\xNN`; `$db` is the case's own
//! database, `$L` the address of node L (`$F`, `$G`, `$S` in a cluster). `"a" + rep(3,"bc")` joins.
//!
//! **Values**: `i-5` INTEGER, `f1.5` FLOAT, `t"…"` TEXT, `b"…"` BLOB, `n` NULL, `u5` UNIXTIME,
//! `s"…"` ISO8601, `B2` BOOLEAN; `i7*300` is that three hundred times.
//!
//! **Bytes**: hexadecimal in any grouping, and `text"…"` for an encoded text.
//!
//! **Connections**: `connect [legacy|bare] [at F]` (`bare` sends no word), `bytes bytes…`, `cork` and
//! `flush` (everything in between in one write), `bytewise` (from now on one byte per write),
//! `shutdown` (half-close), `close`, `crowd n` (that many idle connections, then LEADER on each).
//!
//! **Expectations**: `FAILURE code text`, `SERVER id address`, `SERVERLEGACY address`, `WELCOME ms`,
//! `SERVERS id address role …`, `SERVERS0 id address …`, `DB id`, `STMT db id params [tail]`,
//! `RESULT id count`, `EMPTY`, `METADATA domain weight`, `ROWS names… | row | row [| part]`,
//! `FILES name size …`, `bytes …` (the message byte by byte), `CLOSE` (no reply, or the connection
//! broken), `BATCH body rows done|part` (only these numbers of the next ROWS), `STREAM rows parts`
//! (ROWS up to the end, that many rows in all, at least that many messages before the last),
//! `DRAIN` (any ROWS, perhaps cut short by FAILURE 9, then one EMPTY), `RESULT any`, `DUMPED sql output` (FILES; what the `sqlite3`
//! shell makes of the files). `expect after 0.4s …` also wants that much time since the last request.
//! `expect eventually …` sends the last request again for as long as the answer is another one, for
//! what a follower learns a little later. There are no upper bounds but the runner's own deadline.
//!
//! **Nodes**: `restart`; in a cluster `stop F`, `start F`, `pause F`, `resume F`, `leader F` (wait until all
//! running nodes name it).

mod bed;
mod compare;
mod connection;
mod frame;
mod lex;
mod message;
mod parse;
mod print;
mod run;
mod script;
mod text;

pub(crate) use bed::memory_dir;
pub use compare::{Mismatch, compare_reply};
pub use connection::{Connection, Received};
pub use frame::{Frame, mask_blob_padding, show_frame};
pub use message::{Message, Params, Request, Value};
pub use parse::{ParseError, parse};
pub use print::{print_message, print_step};
pub use run::{CASE_DEADLINE, Outcome, Runner, Verdict};
pub use script::{Action, Case, Expected, Needs, Reply, Settings, Step, Target};
pub use text::{Names, Text};
