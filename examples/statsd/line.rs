//! One line of statsd: `name:value|type`, then `|@rate` and `|#tags` if there are any.

/// Bytes of a name, and of a member of a set: longer ones are no names, but text.
const NAME_MAX: usize = 200;

/// What a line says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) value: Value<'a>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    /// So many more, the sample rate counted in.
    Count(f64),
    /// So many milliseconds.
    Time(f64),
    /// It stands at so much now, or by so much higher or lower.
    Gauge(f64),
    Change(f64),
    /// A member of a set was seen.
    Member(&'a str),
}

/// Reads a line; `None` if it is none.
pub(crate) fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = std::str::from_utf8(line).ok()?;
    let (name, rest) = line.split_once(':')?;
    let is_name = (1..=NAME_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"|@#".contains(&byte));
    if !is_name {
        return None;
    }
    let mut parts = rest.split('|');
    let (value, kind) = (parts.next()?, parts.next()?);
    let mut rate = 1.0;
    for part in parts {
        match (part.strip_prefix('@'), part.strip_prefix('#')) {
            (Some(given), _) => rate = number(given).filter(|rate| *rate > 0.0 && *rate <= 1.0)?,
            (None, Some(_)) => {} // tags are of no use here
            (None, None) => return None,
        }
    }
    let value = match kind {
        "c" => Value::Count(number(value)? / rate),
        "ms" | "h" => Value::Time(number(value).filter(|time| *time >= 0.0)?),
        "g" if value.starts_with(['+', '-']) => Value::Change(number(value)?),
        "g" => Value::Gauge(number(value)?),
        "s" if (1..=NAME_MAX).contains(&value.len()) => Value::Member(value),
        _ => return None,
    };
    let is_finite = !matches!(value, Value::Count(count) if !count.is_finite());
    is_finite.then_some(Line { name, value })
}

/// A number that is one: `inf` and `nan` would stay in a sum for ever.
fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}
