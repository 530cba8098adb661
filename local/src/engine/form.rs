//! `multipart/form-data` bodies: clients put the query and its parameters there when a URL would be too long for them.
//! Only plain fields; it reads no files.

use super::exception::{Exception, raise};

/// The fields of a form, in order.
pub fn fields(body: &[u8], boundary: &str) -> Result<Vec<(String, String)>, Exception> {
    let opening = format!("--{boundary}");
    let separator = format!("\r\n--{boundary}");
    let mut rest =
        body.strip_prefix(opening.as_bytes()).ok_or_else(|| damaged("it does not begin with its boundary"))?;
    let mut fields = Vec::new();
    while !rest.starts_with(b"--") {
        rest = rest.strip_prefix(b"\r\n").ok_or_else(|| damaged("a boundary is not at the end of its line"))?;
        let (head, after) = split(rest, b"\r\n\r\n").ok_or_else(|| damaged("a field has no value"))?;
        let (value, after) = split(after, separator.as_bytes()).ok_or_else(|| damaged("its last field is cut"))?;
        fields.push((name(head)?, text(value)?));
        rest = after;
    }
    Ok(fields)
}

/// `Content-Disposition: form-data; name="param_x"`
fn name(head: &[u8]) -> Result<String, Exception> {
    let head = text(head)?;
    let disposition = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-disposition:"));
    let name = disposition.and_then(|line| line.split(';').find_map(|part| part.trim().strip_prefix("name=")));
    name.map(|name| name.trim_matches('"').to_owned()).ok_or_else(|| damaged("a field has no name"))
}

fn text(bytes: &[u8]) -> Result<String, Exception> {
    String::from_utf8(bytes.to_vec()).map_err(|_| damaged("a field is not UTF-8"))
}

fn split<'text>(text: &'text [u8], at: &[u8]) -> Option<(&'text [u8], &'text [u8])> {
    let start = text.windows(at.len()).position(|window| window == at)?;
    Some((&text[..start], &text[start + at.len()..]))
}

fn damaged(what: &str) -> Exception {
    raise::BAD_ARGUMENTS(format!("could not read the multipart form: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_keep_their_order_and_their_line_ends() {
        let body = "--b\r\nContent-Disposition: form-data; name=\"query\"\r\n\r\nSELECT\r\n{x:String}\r\n--b\r\n\
                    content-disposition: form-data; name=\"param_x\"\r\nContent-Type: text/plain\r\n\r\n\r\n--b--\r\n";
        let expected = [("query", "SELECT\r\n{x:String}"), ("param_x", "")];
        assert_eq!(fields(body.as_bytes(), "b").unwrap(), expected.map(|(name, value)| (name.into(), value.into())));
    }

    #[test]
    fn a_cut_form_is_refused() {
        for body in ["", "--b\r\n", "--b\r\nContent-Disposition: form-data; name=\"q\"\r\n\r\nSELECT 1"] {
            assert_eq!(fields(body.as_bytes(), "b").unwrap_err().code, 36, "{body}");
        }
    }
}
