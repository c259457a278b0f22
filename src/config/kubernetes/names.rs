//! Kubernetes' own rules for names and labels, so that a bad name is found at start and not by every create.

/// Longest label value and longest part of a name between dots, in bytes.
pub const LABEL_BYTES_MAX: usize = 63;

/// Longest name of an object such as a pod, in bytes.
pub const NAME_BYTES_MAX: usize = 253;

/// Whether a text can be a label's value: empty, or letters and digits with `-`, `_` and `.` between them.
#[must_use]
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_name(text)
}

/// Whether a text can be a label's key: a name, and perhaps a domain and a slash before it.
#[must_use]
pub fn is_label_key(text: &str) -> bool {
    match text.split_once('/') {
        Some((domain, name)) => is_object_name(domain) && is_label_name(name),
        None => is_label_name(text),
    }
}

/// Whether a text can be a namespace: lower-case letters and digits, `-` between them (RFC 1123 label).
#[must_use]
pub fn is_namespace(text: &str) -> bool {
    let inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    text.len() <= LABEL_BYTES_MAX && text.bytes().all(inside) && ends_are_alphanumeric(text)
}

/// Whether a text can be the name of an object: as [`is_namespace`], dots and 253 bytes allowed (RFC 1123
/// subdomain).
#[must_use]
pub fn is_object_name(text: &str) -> bool {
    let inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    let is_part = |part: &str| part.bytes().all(inside) && ends_are_alphanumeric(part);
    text.len() <= NAME_BYTES_MAX && text.split('.').all(is_part)
}

/// Whether a text is an amount such as `10Gi`, `500m` or `1.5`.
#[must_use]
pub fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 15] =
        ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi"];
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    number.parse::<f64>().is_ok() && SUFFIXES.contains(&suffix)
}

fn is_label_name(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    text.len() <= LABEL_BYTES_MAX && text.bytes().all(inside) && ends_are_alphanumeric(text)
}

fn ends_are_alphanumeric(text: &str) -> bool {
    let is = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    is(text.as_bytes().first()) && is(text.as_bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules_of_kubernetes() {
        let long = "a".repeat(64);
        for good in ["", "v4-worker", "a.b_C", "7"] {
            assert!(is_label_value(good), "{good:?}");
        }
        for bad in ["-a", "a-", "a b", "ä", "a/b", long.as_str()] {
            assert!(!is_label_value(bad), "{bad:?}");
        }
        for good in ["nodetype", "node.cluster.x-k8s.io/machinepool", "a_b"] {
            assert!(is_label_key(good), "{good:?}");
        }
        for bad in ["", "/", "a/", "/a", "A.io/a", "a/b/c", "a b"] {
            assert!(!is_label_key(bad), "{bad:?}");
        }
        assert!(is_namespace("runs-1") && is_object_name("registry.secret-1"));
        for bad in ["", "Runs", "runs.", "-runs", "runs_1", long.as_str()] {
            assert!(!is_namespace(bad), "{bad:?}");
        }
        for bad in ["", "a..b", "A", "a_b", ".a"] {
            assert!(!is_object_name(bad), "{bad:?}");
        }
        assert!(is_object_name(&format!("{long}.{long}")) && !is_object_name(&"a".repeat(254)));
    }

    #[test]
    fn a_quantity_is_a_number_and_a_known_suffix() {
        for good in ["10Gi", "2G", "500m", "1.5", "0"] {
            assert!(is_quantity(good), "{good:?}");
        }
        for bad in ["", "Gi", "10GB", "10 Gi", "1.2.3", "-1Gi", "ten"] {
            assert!(!is_quantity(bad), "{bad:?}");
        }
    }
}
