//! What a client asked for, read from an HTTP request's line and headers. It never touches the engine.

use super::compression::{BodyCoding, Coding};
use super::exception::{Exception, raise};
use super::sessions::SessionWish;
use axum::extract::Query;
use axum::http::{HeaderMap, Method, header, request};
use base64::Engine as _;

/// The user whose statements may only read tables. Everyone else on loopback is `default`; passwords are not looked at.
const READER: &str = "reader";
const DEFAULT_USER: &str = "default";

/// A request, without its body.
#[derive(Debug, Default)]
pub struct Asked {
    /// From the URL or a form field; the body continues it.
    pub query: String,
    pub query_id: String,
    pub database: Option<String>,
    pub default_format: Option<String>,
    /// Settings for this request, in order; names are checked, values are not.
    pub settings: Vec<(String, String)>,
    pub role: Vec<String>,
    /// `param_name=value`, for `{name:Type}`.
    pub parameters: Vec<(String, String)>,
    pub session: Option<SessionWish>,
    pub access: Access,
    /// The value of `readonly` to run with, if any.
    pub read_only: Option<&'static str>,
    pub method: Method,
    /// How the body is packed, outermost first.
    pub body: BodyCoding,
    /// How the answer shall be packed.
    pub answer: Coding,
    /// Hold the answer back until the statement is done, so that its status and summary are final.
    pub wait_end_of_query: bool,
    /// The boundary of a `multipart/form-data` body, whose fields are like parameters of the URL.
    pub form_boundary: Option<String>,
}

/// What the user may do.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    #[default]
    Everything,
    /// As a server treats GET: no changes, settings allowed (`readonly=2`), or not even those (`readonly=1`).
    Reading,
    /// [`READER`]: no settings inside a statement, no files or URLs (`readonly=1`), and nothing but statements that the
    /// engine classifies as read-only.
    Reader,
}

impl Asked {
    pub fn read(parts: &request::Parts) -> Result<Self, Exception> {
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|error| raise::BAD_ARGUMENTS(format!("could not read the URL's parameters: {error}")))?;
        let mut asked = Self { method: parts.method.clone(), ..Self::default() };
        let mut wishes = Wishes::default();
        for (name, value) in pairs.0 {
            asked.parameter(name, value, &mut wishes)?;
        }
        asked.headers(&parts.headers, wishes)?;
        Ok(asked)
    }

    /// One parameter of the URL or field of a form.
    fn parameter(&mut self, name: String, value: String, wishes: &mut Wishes) -> Result<(), Exception> {
        match name.as_str() {
            "query" => self.query.push_str(&value),
            "query_id" => self.query_id = value,
            "database" => self.database = (!value.is_empty()).then_some(value),
            "default_format" => self.default_format = format_name(value)?,
            "readonly" => wishes.read_only = Some(value),
            "user" => wishes.user = Some(value),
            "compress" => wishes.compress = is_on(&value),
            "decompress" => wishes.decompress = is_on(&value),
            "wait_end_of_query" | "http_wait_end_of_query" => self.wait_end_of_query = is_on(&value),
            "session_id" => wishes.session_id = (!value.is_empty()).then_some(value),
            "session_timeout" => wishes.session_timeout = Some(value),
            "session_check" => wishes.session_check = is_on(&value),
            "enable_http_compression" => wishes.http_compression = Some(is_on(&value)),
            "role" => self.role.push(value),
            // Parts of the protocol that have no meaning here: everyone is known, nothing is buffered by size.
            "password"
            | "quota_key"
            | "buffer_size"
            | "stacktrace"
            | "close_session"
            | "client_protocol_version"
            | "add_http_cors_header" => {}
            _ => match name.strip_prefix("param_") {
                Some(parameter) => self.parameters.push((parameter.to_owned(), value)),
                None => self.setting(name, value)?,
            },
        }
        Ok(())
    }

    fn setting(&mut self, name: String, value: String) -> Result<(), Exception> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.';
        if name.is_empty() || !name.bytes().all(plain) {
            return Err(raise::BAD_ARGUMENTS(format!("'{}' is not the name of a setting", name.escape_debug())));
        }
        self.settings.push((name, value));
        Ok(())
    }

    /// A form's field, read after the URL.
    pub fn field(&mut self, name: String, value: String) -> Result<(), Exception> {
        if name == "query" || name.starts_with("param_") || self.is_setting_field(&name) {
            return self.parameter(name, value, &mut Wishes::default());
        }
        Err(raise::NOT_IMPLEMENTED(format!(
            "form field '{}' is neither query nor param_…: external tables are not supported here; \
             send their rows with INSERT, or inline them as VALUES",
            name.escape_debug()
        )))
    }

    fn is_setting_field(&self, name: &str) -> bool {
        matches!(name, "query_id" | "database" | "default_format")
    }

    fn headers(&mut self, headers: &HeaderMap, wishes: Wishes) -> Result<(), Exception> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
        self.database = self.database.take().or(text("x-clickhouse-database").map(str::to_owned));
        if self.default_format.is_none() {
            self.default_format = format_name(text("x-clickhouse-format").unwrap_or_default().to_owned())?;
        }
        if self.query_id.is_empty() {
            self.query_id =
                text("x-clickhouse-query-id").map_or_else(|| uuid::Uuid::new_v4().to_string(), str::to_owned);
        }
        let user = wishes.user.clone().or(text("x-clickhouse-user").map(str::to_owned)).or_else(|| basic_user(headers));
        self.access = access(user.as_deref(), &self.method, wishes.read_only.as_deref())?;
        self.read_only = match (self.access, wishes.read_only.as_deref()) {
            (Access::Everything, _) => None,
            (Access::Reader, _) | (_, Some("1")) => Some("1"),
            _ => Some("2"),
        };
        self.form_boundary = text("content-type").and_then(boundary);
        self.body = BodyCoding { http: Coding::of_body(text("content-encoding"))?, native: wishes.decompress };
        self.answer = if wishes.compress {
            Coding::Native
        } else if wishes.http_compression.unwrap_or(true) {
            Coding::acceptable(text(header::ACCEPT_ENCODING.as_str()).unwrap_or_default())
        } else {
            Coding::Plain
        };
        // A reader's session would have nothing to keep: it can neither SET nor make temporary tables.
        self.session = if self.access == Access::Reader { None } else { wishes.session()? };
        Ok(())
    }
}

/// What is only understood together with other parameters or headers.
#[derive(Debug, Default)]
struct Wishes {
    user: Option<String>,
    read_only: Option<String>,
    compress: bool,
    decompress: bool,
    http_compression: Option<bool>,
    session_id: Option<String>,
    session_timeout: Option<String>,
    session_check: bool,
}

impl Wishes {
    fn session(self) -> Result<Option<SessionWish>, Exception> {
        let Some(id) = self.session_id else { return Ok(None) };
        SessionWish::new(id, self.session_timeout.as_deref(), self.session_check).map(Some)
    }
}

fn access(user: Option<&str>, method: &Method, read_only: Option<&str>) -> Result<Access, Exception> {
    let reading = matches!(*method, Method::GET | Method::HEAD) || read_only.is_some_and(|value| value != "0");
    match user {
        Some(READER) => Ok(Access::Reader),
        None | Some("" | DEFAULT_USER) if reading => Ok(Access::Reading),
        None | Some("" | DEFAULT_USER) => Ok(Access::Everything),
        Some(other) => Err(raise::AUTHENTICATION_FAILED(format!(
            "{}: Authentication failed: the local stack knows the users {DEFAULT_USER} and {READER}",
            other.escape_debug()
        ))),
    }
}

/// A format's name goes into the statement, so it has to be a plain word.
fn format_name(name: String) -> Result<Option<String>, Exception> {
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(raise::UNKNOWN_FORMAT(format!("Unknown format '{}'", name.escape_debug())));
    }
    Ok((!name.is_empty()).then_some(name))
}

/// `Authorization: Basic …`; the password is not looked at.
fn basic_user(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let encoded = value.strip_prefix("Basic ").or_else(|| value.strip_prefix("basic "))?;
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    Some(text.split_once(':').map_or(text.as_str(), |(user, _)| user).to_owned())
}

/// `multipart/form-data; boundary=…`
fn boundary(content_type: &str) -> Option<String> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let value = rest.split(';').find_map(|part| part.trim().strip_prefix("boundary="))?;
    Some(value.trim_matches('"').to_owned())
}

fn is_on(value: &str) -> bool {
    !matches!(value, "" | "0" | "false")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: &str, url: &str, headers: &[(&str, &str)]) -> Result<Asked, Exception> {
        let mut builder = request::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        Asked::read(&builder.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_url_says_query_settings_parameters_and_packing() {
        let url =
            "/?query=SELECT%20%7Bx%3AInt8%7D&param_x=1&database=d&max_threads=2&async_insert=0&compress=1&decompress=1";
        let asked = asked("POST", url, &[]).unwrap();
        assert_eq!(asked.query, "SELECT {x:Int8}");
        assert_eq!(asked.parameters, [("x".to_owned(), "1".to_owned())]);
        assert_eq!(
            asked.settings.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["max_threads", "async_insert"]
        );
        assert_eq!((asked.database.as_deref(), asked.answer, asked.body.native), (Some("d"), Coding::Native, true));
        assert_eq!(asked.access, Access::Everything);
    }

    #[test]
    fn headers_stand_in_for_what_the_url_does_not_say() {
        let headers =
            [("x-clickhouse-database", "d"), ("x-clickhouse-format", "JSON"), ("accept-encoding", "br, gzip")];
        let fallen = asked("GET", "/?query=SELECT+1", &headers).unwrap();
        assert_eq!((fallen.database.as_deref(), fallen.default_format.as_deref()), (Some("d"), Some("JSON")));
        assert_eq!((fallen.access, fallen.answer), (Access::Reading, Coding::Gzip));
        assert!(!fallen.query_id.is_empty());
        let said = asked("GET", "/?database=e&enable_http_compression=0", &headers).unwrap();
        assert_eq!((said.database.as_deref(), said.answer), (Some("e"), Coding::Plain));
    }

    #[test]
    fn users_are_default_reader_or_strangers() {
        assert_eq!(asked("POST", "/", &[("x-clickhouse-user", "reader")]).unwrap().access, Access::Reader);
        let basic = base64::engine::general_purpose::STANDARD.encode("reader:secret");
        assert_eq!(asked("POST", "/", &[("authorization", &format!("Basic {basic}"))]).unwrap().access, Access::Reader);
        assert_eq!(asked("POST", "/?user=nobody", &[]).unwrap_err().code, 516);
    }

    #[test]
    fn whoever_may_only_read_runs_read_only() {
        let read_only = |method, url| asked(method, url, &[]).unwrap().read_only;
        assert_eq!(read_only("POST", "/?readonly=0"), None);
        assert_eq!(read_only("POST", "/?readonly=1"), Some("1"));
        assert_eq!(read_only("GET", "/"), Some("2"));
        assert_eq!(read_only("POST", "/?user=reader&readonly=0"), Some("1"));
        assert_eq!(asked("POST", "/?user=reader&session_id=s", &[]).unwrap().session, None);
    }

    #[test]
    fn a_setting_name_cannot_carry_sql() {
        assert_eq!(asked("POST", "/?a%3D1%2C%20b=2", &[]).unwrap_err().code, 36);
        assert_eq!(asked("POST", "/?default_format=CSV%20SETTINGS", &[]).unwrap_err().code, 73);
    }
}
