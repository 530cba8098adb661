//! What an error from ClickHouse means for us: the world's fault, or ours. Decides; never retries.

use clickhouse::error::Error;
use millrace_stream::Failure;

/// What heals by itself: the same statement may work in a moment. What is neither here nor in [`MENDED`] is ours.
/// `src/Common/ErrorCodes.cpp`.
const HEALS: [u32; 50] = [
    3,    // UNEXPECTED_END_OF_FILE: our body was cut off on its way
    23,   // CANNOT_READ_FROM_ISTREAM
    24,   // CANNOT_WRITE_TO_OSTREAM
    32,   // ATTEMPT_TO_READ_AFTER_EOF
    33,   // CANNOT_READ_ALL_DATA
    40,   // CHECKSUM_DOESNT_MATCH
    74,   // CANNOT_READ_FROM_FILE_DESCRIPTOR
    75,   // CANNOT_WRITE_TO_FILE_DESCRIPTOR: disk full, often
    76,   // CANNOT_OPEN_FILE
    95,   // CANNOT_READ_FROM_SOCKET
    96,   // CANNOT_WRITE_TO_SOCKET
    159,  // TIMEOUT_EXCEEDED
    160,  // TOO_SLOW
    164,  // READONLY
    173,  // CANNOT_ALLOCATE_MEMORY
    198,  // DNS_ERROR
    201,  // QUOTA_EXCEEDED
    202,  // TOO_MANY_SIMULTANEOUS_QUERIES
    203,  // NO_FREE_CONNECTION
    209,  // SOCKET_TIMEOUT
    210,  // NETWORK_ERROR
    216,  // QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING
    218,  // TABLE_IS_DROPPED: a rebuild has put another into its place
    225,  // NO_ZOOKEEPER
    236,  // ABORTED: the server shuts down
    241,  // MEMORY_LIMIT_EXCEEDED
    242,  // TABLE_IS_READ_ONLY
    243,  // NOT_ENOUGH_SPACE
    252,  // TOO_MANY_PARTS: merges are behind
    254,  // NO_ACTIVE_REPLICAS
    279,  // ALL_CONNECTION_TRIES_FAILED
    285,  // TOO_FEW_LIVE_REPLICAS
    286,  // UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE
    289,  // REPLICA_IS_NOT_IN_QUORUM
    319,  // UNKNOWN_STATUS_OF_INSERT
    341,  // UNFINISHED
    394,  // QUERY_WAS_CANCELLED
    425,  // SYSTEM_ERROR
    439,  // CANNOT_SCHEDULE_TASK
    473,  // DEADLOCK_AVOIDED
    499,  // S3_ERROR
    517,  // CANNOT_ASSIGN_ALTER
    667,  // NOT_INITIALIZED: the server starts up
    733,  // TABLE_IS_BEING_RESTARTED
    734,  // CANNOT_WRITE_AFTER_BUFFER_CANCELED
    735,  // QUERY_WAS_CANCELLED_BY_CLIENT
    745,  // SERVER_OVERLOADED
    999,  // KEEPER_EXCEPTION
    1000, // POCO_EXCEPTION
    1001, // STD_EXCEPTION
];

/// What somebody has to mend, and then the same statement works: a table that was changed by hand, a broken part, rights
/// that were taken away. Our batch waits, nothing of it is there, and nobody need start anything again.
const MENDED: [u32; 18] = [
    10,  // NOT_FOUND_COLUMN_IN_BLOCK
    16,  // NO_SUCH_COLUMN_IN_TABLE
    47,  // UNKNOWN_IDENTIFIER
    48,  // NOT_IMPLEMENTED: something that takes no inserts has the table's name
    53,  // TYPE_MISMATCH
    60,  // UNKNOWN_TABLE
    81,  // UNKNOWN_DATABASE
    117, // INCORRECT_DATA
    192, // UNKNOWN_USER
    193, // WRONG_PASSWORD
    226, // NO_FILE_IN_DATA_PART
    228, // BAD_SIZE_OF_FILE_IN_DATA_PART
    246, // CORRUPTED_DATA: a full disk can leave a part that the server can't read
    359, // TABLE_SIZE_EXCEEDS_MAX_DROP_SIZE_LIMIT
    452, // SETTING_CONSTRAINT_VIOLATION
    469, // VIOLATED_CONSTRAINT
    497, // ACCESS_DENIED
    516, // AUTHENTICATION_FAILED
];

/// What to do about it, where the server's words don't say.
fn advice(code: u32) -> Option<&'static str> {
    Some(match code {
        10 | 16 | 47 | 48 | 53 | 60 | 81 | 117 => {
            "the table is not as it was made: `millrace migrate` adds what is missing, \
             `millrace rebuild clickhouse TABLE` makes it anew from the log"
        }
        164 | 242 => "the server, or this user's profile, is read-only: let it write",
        192 | 193 | 452 | 497 | 516 => "see to clickhouse.user, its password and its rights",
        241 => "give this user or the server more memory, or let process.clickhouse.batch_bytes be less",
        226 | 228 | 246 => {
            "most likely a part is broken on the server's disk: `check table` names it, a restart sets it aside or \
             `alter table … detach part` does; then `millrace rebuild clickhouse TABLE` brings back what the log holds"
        }
        243 => "make room on the server's disk",
        252 => "merges are behind: see system.merges, and the table's parts_to_throw_insert",
        359 => "drop the table by hand, with `settings max_table_size_to_drop = 0`, or let this user set that",
        469 => "drop the constraint that somebody gave the table",
        _ => return None,
    })
}

/// The failure an error amounts to.
pub(super) fn failure(error: Error) -> Failure {
    let heals = heals(&error);
    let error = match code(&error).and_then(advice) {
        Some(advice) => anyhow::anyhow!("{error}; {advice}"),
        None => error.into(),
    };
    if heals { Failure::Retry(error) } else { Failure::Stop(error) }
}

fn code(error: &Error) -> Option<u32> {
    let Error::BadResponse(text) = error else { return None };
    exception_code(text)
}

fn heals(error: &Error) -> bool {
    match error {
        Error::Network(_) | Error::TimedOut => true,
        // Half an answer: the server or the way to it died meanwhile.
        Error::Decompression(_) | Error::NotEnoughData => true,
        Error::BadResponse(text) => match exception_code(text) {
            Some(code) => HEALS.contains(&code) || MENDED.contains(&code),
            None => !refuses_us(text),
        },
        _ => false,
    }
}

/// UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE: somebody else's insert into that table still waits for its quorum.
pub(super) fn another_has_its_turn(failure: &Failure) -> bool {
    matches!(failure, Failure::Retry(_)) && code_of(failure) == Some(286)
}

/// UNKNOWN_TABLE or TABLE_IS_DROPPED: it was there when we looked.
pub(super) fn table_is_gone(failure: &Failure) -> bool {
    matches!(code_of(failure), Some(60 | 218))
}

/// None where the server said nothing.
pub(super) fn code_of(failure: &Failure) -> Option<u32> {
    exception_code(&failure.to_string())
}

/// `Code: 252. DB::Exception: …` → 252. What carries no code was said by a proxy.
fn exception_code(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("Code: ")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// A proxy that answers so will answer so again.
fn refuses_us(text: &str) -> bool {
    ["400", "401", "403", "404"].iter().any(|status| text.starts_with(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(text: &str) -> Error {
        Error::BadResponse(text.into())
    }

    #[test]
    fn a_busy_server_is_asked_again_and_a_wrong_statement_is_not() {
        for code in [252, 241, 242, 164, 202, 218, 243, 999, 319, 236] {
            let text = format!("Code: {code}. DB::Exception: no. (NO) (version 26.7.3.1)");
            assert!(heals(&answered(&text)), "{text}");
        }
        for code in [62, 115, 27, 36, 70] {
            let text = format!("Code: {code}. DB::Exception: no. (NO) (version 26.7.3.1)");
            assert!(!heals(&answered(&text)), "{text}");
        }
    }

    #[test]
    fn what_a_person_must_mend_is_waited_for_and_says_what_to_mend() {
        for (code, said) in [
            (16, "millrace rebuild clickhouse"),
            (60, "millrace migrate"),
            (246, "millrace rebuild clickhouse"),
            (497, "its rights"),
        ] {
            let failed = failure(answered(&format!("Code: {code}. DB::Exception: no.")));
            assert!(matches!(&failed, Failure::Retry(error) if error.to_string().contains(said)), "{failed}");
        }
    }

    #[test]
    fn an_insert_that_came_before_anothers_quorum_is_told_apart() {
        let of = |code: u32| failure(answered(&format!("Code: {code}. DB::Exception: Received from c-2:9000. no.")));
        assert!(another_has_its_turn(&of(286)) && !another_has_its_turn(&of(285)));
        assert!(!another_has_its_turn(&failure(Error::TimedOut)));
    }

    #[test]
    fn a_table_that_is_gone_is_told_from_a_wrong_statement() {
        let of = |code: u32| failure(answered(&format!("Code: {code}. DB::Exception: no.")));
        assert!(table_is_gone(&of(60)) && table_is_gone(&of(218)) && !table_is_gone(&of(47)));
        assert!(!table_is_gone(&failure(Error::TimedOut)));
    }

    #[test]
    fn a_lost_connection_heals_and_so_does_a_proxy_that_finds_no_server() {
        assert!(heals(&Error::Network("reset".into())) && heals(&Error::TimedOut));
        assert!(heals(&answered("502 Bad Gateway")) && !heals(&answered("403 Forbidden")));
        assert!(!heals(&Error::InvalidParams("no host".into())));
    }
}
