//! What went wrong, in ClickHouse's words: code, text, and the HTTP status a server would choose.

use super::library::EngineError;
use axum::http::StatusCode;

/// A ClickHouse exception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exception {
    pub code: u32,
    /// `Code: N. DB::Exception: … (NAME)`, without the version.
    pub message: String,
}

macro_rules! exceptions {
    ($($name:ident = $code:literal),* $(,)?) => {
        $(#[doc = stringify!($name)] pub fn $name(what: impl std::fmt::Display) -> Exception {
            Exception::new($code, stringify!($name), &what)
        })*
    };
}

/// The exceptions that this endpoint raises itself, named as ClickHouse names them.
#[allow(non_snake_case)]
pub mod raise {
    use super::Exception;
    exceptions! {
        CHECKSUM_DOESNT_MATCH = 40,
        SYNTAX_ERROR = 62,
        UNKNOWN_FORMAT = 73,
        UNKNOWN_TYPE_OF_QUERY = 78,
        UNKNOWN_COMPRESSION_METHOD = 89,
        READONLY = 164,
        TOO_MANY_SIMULTANEOUS_QUERIES = 202,
        SOCKET_TIMEOUT = 209,
        NETWORK_ERROR = 210,
        QUERY_IS_TOO_LARGE = 229,
        ABORTED = 236,
        MEMORY_LIMIT_EXCEEDED = 241,
        CANNOT_DECOMPRESS = 271,
        INTO_OUTFILE_NOT_ALLOWED = 358,
        SESSION_NOT_FOUND = 372,
        SESSION_IS_LOCKED = 373,
        INVALID_SESSION_TIMEOUT = 374,
        QUERY_WAS_CANCELLED = 394,
        AUTHENTICATION_FAILED = 516,
        BAD_ARGUMENTS = 36,
        NOT_IMPLEMENTED = 48,
        UNKNOWN_EXCEPTION = 1002,
    }
}

impl Exception {
    fn new(code: u32, name: &str, what: &dyn std::fmt::Display) -> Self {
        Self { code, message: format!("Code: {code}. DB::Exception: {what}. ({name})") }
    }

    /// The line that ends an answer.
    pub fn line(&self, version: &str) -> String {
        format!("{} (version {version})\n", self.message)
    }

    /// The status that a ClickHouse server answers this code with.
    pub fn status(&self) -> StatusCode {
        match self.code {
            194 => StatusCode::UNAUTHORIZED,
            192 | 193 | 497 | 512 | 516 => StatusCode::FORBIDDEN,
            6
            | 8
            | 15
            | 25..=27
            | 36..=38
            | 41
            | 44
            | 53
            | 62
            | 72
            | 117
            | 123
            | 167
            | 168
            | 223
            | 321
            | 376
            | 427
            | 441
            | 675
            | 676 => StatusCode::BAD_REQUEST,
            46 | 47 | 50 | 56 | 60 | 63 | 73 | 78 | 81 | 115 | 152 | 336 | 511 => StatusCode::NOT_FOUND,
            229 => StatusCode::PAYLOAD_TOO_LARGE,
            48 => StatusCode::NOT_IMPLEMENTED,
            76 | 202 | 209 | 236 | 439 => StatusCode::SERVICE_UNAVAILABLE, // for 202 a server says 500: try again
            381 => StatusCode::LENGTH_REQUIRED,
            159 => StatusCode::REQUEST_TIMEOUT,
            779 => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl std::fmt::Display for Exception {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Exception {}

impl From<std::io::Error> for Exception {
    /// What reading a body met: an exception of ours on its way through [`std::io::Read`], or bytes that are not what
    /// their Content-Encoding says.
    fn from(error: std::io::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(exception) => exception,
            Err(error) => raise::CANNOT_DECOMPRESS(format!("could not read the request's body: {error}")),
        }
    }
}

impl From<EngineError> for Exception {
    /// The engine wraps what its inner client already wrapped (`Code: 73. DB::Exception: Code: 73. …`): unwrap it.
    fn from(EngineError(text): EngineError) -> Self {
        let mut text = text.trim();
        while let Some((_, inner)) = split_code(text).filter(|(_, inner)| split_code(inner).is_some()) {
            text = inner.rfind("). (").map_or(inner, |end| &inner[..=end]);
        }
        let text = text.rfind(" (version ").map_or(text, |end| &text[..end]);
        match split_code(text) {
            Some((code, _)) => Self { code, message: text.to_owned() },
            None => raise::UNKNOWN_EXCEPTION(text.trim_end_matches('.')),
        }
    }
}

/// `Code: 60. DB::Exception: what` → (60, `what`); `DB::NetException` and its like too.
fn split_code(text: &str) -> Option<(u32, &str)> {
    let (code, rest) = text.strip_prefix("Code: ")?.split_once(". DB::")?;
    let (_, what) = rest.split_once("Exception: ")?;
    Some((code.parse().ok()?, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exception_keeps_its_code_and_loses_its_wrappings() {
        let wrapped = "Code: 73. DB::Exception: Code: 73. DB::Exception: Code: 73. DB::Exception: Unknown format Nope. \
                       (UNKNOWN_FORMAT) (version 26.7.2.1). (UNKNOWN_FORMAT) (version 26.7.2.1). (UNKNOWN_FORMAT)";
        let exception = Exception::from(EngineError(wrapped.into()));
        assert_eq!(exception.code, 73);
        assert_eq!(
            exception.line("26.7.2.1"),
            "Code: 73. DB::Exception: Unknown format Nope. (UNKNOWN_FORMAT) (version 26.7.2.1)\n"
        );
        let plain = Exception::from(EngineError(
            "Code: 81. DB::Exception: Database x does not exist. (UNKNOWN_DATABASE)".into(),
        ));
        assert_eq!((plain.code, plain.status()), (81, StatusCode::NOT_FOUND));
    }

    #[test]
    fn words_without_a_code_become_an_unknown_exception() {
        let exception = Exception::from(EngineError("Invalid or closed connection".into()));
        assert_eq!((exception.code, exception.status()), (1002, StatusCode::INTERNAL_SERVER_ERROR));
        assert_eq!(exception.message, "Code: 1002. DB::Exception: Invalid or closed connection. (UNKNOWN_EXCEPTION)");
    }
}
