//! What an error from ClickHouse means for us: the world's fault, or ours. Decides; never retries.

use clickhouse::error::Error;
use millrace_stream::Failure;

/// Statements that no server like this one will ever take: ours are wrong, or it is not the one they are for. Whatever
/// else it answers passes by itself (a full disk, merges that are behind), or once somebody has mended it (a table that
/// was changed by hand, rights that were taken away, a view that somebody hung on a table): meanwhile that table's
/// batches wait, rows that are there already are found, and nobody need start anything again. `src/Common/ErrorCodes.cpp`.
const OURS: [u32; 4] = [
    46,  // UNKNOWN_FUNCTION
    62,  // SYNTAX_ERROR
    73,  // UNKNOWN_FORMAT
    115, // UNKNOWN_SETTING
];

/// What to do about it, where the server's words don't say.
fn advice(code: u32) -> Option<&'static str> {
    Some(match code {
        6 | 10 | 16 | 27 | 44 | 47 | 48 | 53 | 60 | 70 | 81 | 117 | 691 => {
            "the table is not as it was made: `millrace migrate` adds what is missing, \
             `millrace rebuild clickhouse TABLE` makes it anew from the log"
        }
        164 | 242 | 392 => "the server, or this user's profile, is read-only: let it write",
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
            Some(code) => !OURS.contains(&code),
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
    fn whatever_a_server_says_is_waited_for_but_what_it_will_say_of_a_wrong_statement_each_time() {
        for code in [252, 241, 242, 164, 202, 218, 243, 999, 319, 236, 392, 395, 44, 27, 36, 70, 4242] {
            let text = format!("Code: {code}. DB::Exception: no. (NO) (version 26.7.3.1)");
            assert!(heals(&answered(&text)), "{text}");
        }
        for code in OURS {
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
