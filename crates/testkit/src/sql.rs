//! SQL as text: its commands one by one, for tests that read or send them so.

/// The commands of a file, without comments.
pub fn commands(text: &str) -> Vec<String> {
    let mut rest = text;
    let (mut commands, mut command) = (Vec::new(), String::new());
    while let Some(next) = rest.chars().next() {
        let length = if rest.starts_with("--") {
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
            continue;
        } else if next == '\'' {
            quoted(rest, "'")
        } else if let Some(tag) = dollar_tag(rest) {
            quoted(rest, tag)
        } else if next == ';' {
            commands.push(std::mem::take(&mut command).trim().to_owned());
            rest = &rest[1..];
            continue;
        } else {
            next.len_utf8()
        };
        command.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    commands.push(command.trim().to_owned());
    commands.retain(|command| !command.is_empty());
    commands
}

/// The text between the dollar quotes of a function or a `do`, if the command has them.
pub fn body(command: &str) -> Option<&str> {
    let start = command.find('$')?;
    let tag = dollar_tag(&command[start..])?;
    let inner = &command[start + tag.len()..];
    Some(&inner[..inner.find(tag)?])
}

/// Length of a quotation from its opening mark to its closing one.
fn quoted(text: &str, mark: &str) -> usize {
    let end = text[mark.len()..].find(mark).expect("a quotation ends");
    end + 2 * mark.len()
}

/// `$$` or `$word$` at the start of a text; `$1` is a parameter.
fn dollar_tag(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('$')?;
    let end = inner.find('$')?;
    inner[..end].chars().all(|c| c.is_ascii_lowercase()).then(|| &text[..end + 2])
}
