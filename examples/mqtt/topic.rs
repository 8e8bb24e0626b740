//! Topics, and filters of them: `+` stands for one level, `#` for this level and all below it.

/// The longest topic or filter, in bytes.
const TOPIC_MAX: usize = 256;

/// Whether a message may have that topic.
pub(crate) fn is_topic(topic: &str) -> bool {
    (1..=TOPIC_MAX).contains(&topic.len()) && !topic.contains(['+', '#'])
}

/// Whether a client may subscribe to it.
pub(crate) fn is_filter(filter: &str) -> bool {
    let mut levels = filter.split('/').rev();
    let is_last = |level: &str| level == "#" || is_plain(level);
    (1..=TOPIC_MAX).contains(&filter.len())
        && levels.next().is_some_and(is_last)
        && levels.all(is_plain)
}

/// A wildcard stands alone in its level.
fn is_plain(level: &str) -> bool {
    level == "+" || !level.contains(['+', '#'])
}

/// Whether a filter takes a topic. A wildcard at the front takes none that begins with `$`.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true, // `a/#` takes `a`, too
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}
