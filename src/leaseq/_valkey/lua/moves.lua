-- The moves of an item that leaves its lease, or falls due: the table of moves.py.
--
-- A value that was put while its key was leased is in the field of that key with a "+" before it: an
-- update of the leased item, or, buffered, its successor. The leased item's `after` says which.

local moves = lazily(function()
  local UNBURIED = 60000000 -- until an item that could not be buried is tried again, without a backoff

  -- A rest after so many deliveries: exponential, with full jitter.
  local function backoff(q, deliveries)
    if q.base <= 0 then
      return 0
    end
    if not seeded then
      math.randomseed(tonumber(ARGV[2]) % 2147483647)
      seeded = true
    end
    local longest = min(q.ceiling, q.base * q.factor ^ (deliveries - 1))
    return floor(math.random() * longest)
  end

  local function is_last_delivery(q, item)
    return item.deliveries >= q.max_deliveries
  end

  local function unpack_after(raw)
    local at, h = unpack_one(raw)
    for n = 1, 5 do
      assert(h[n] >= (n == 2 and -2147483648 or 0) and h[n] < (n == 2 and 2147483648 or OLD * 2))
    end
    return {
      buffered = h[1] == 1, priority = h[2], due = h[3], expires = h[4] == 0 and NEVER or h[4],
      letter = h[5], body = rest_of(raw, at),
    }
  end

  -- What these bytes are of what was put while an item was leased; nil: that is none.
  local function after_in(raw)
    local sound, after = pcall(unpack_after, raw)
    return sound and after or nil
  end

  -- What was put while an item was leased, for one that only looks; nil: nothing that can be read.
  local function look_at_after(q, key, item)
    return item.after ~= 0 and after_in(call("HGET", q.items, "+" .. key)) or nil
  end

  local function write_after(q, key, after)
    local expires = after.expires == NEVER and 0 or after.expires
    local header = { after.buffered and 1 or 0, after.priority, after.due, expires, after.letter }
    call("HSET", q.items, "+" .. key, pack(header) .. after.body)
  end

  local function succeed(q, key, item, after)
    q.n_buffered = max(0, q.n_buffered - 1)
    count_letter(q, item, -1)
    local fresh = new_item(after.body, item.tenant, after.priority, after.expires)
    fresh.letter = after.letter
    let_wait(q, key, fresh, after.due, "back")
  end

  -- Keep a dead item as a letter; "kept": that cannot be done.
  local function bury(q, key, item, newest, reason, err, token, is_unread)
    if q.letters_index == 0 then
      return is_unread and "kept" or "dropped"
    end
    local sound, letters = pcall(queue_at, q.letters_index)
    if not (sound and letters) then
      return "kept"
    end
    work = work + 4
    letters.stamp = max(letters.stamp + 1, wall)
    letters.changed = true
    local letter_of = pack({
      q.name, key, newest.body, newest.letter, token > 0 and digits(token) or "", reason, err,
      item.deliveries, item.tenant, item.priority, digits(wall),
    })
    note_size(letters, letter_of)
    local letter = new_item(letter_of, "", NORMAL, NEVER)
    letter.letter = 1
    let_wait(letters, "s" .. format("%032x", letters.stamp), letter, now, "back")
    count_letter(letters, letter, 1)
    return "dead"
  end

  -- Keep bytes that are nothing as a letter, or drop them, and tell it; nil: there are none. They are
  -- counted if they stood for an item.
  local function give_up(q, key, raw, is_counted)
    local fate = "dropped"
    if raw then
      local item = new_item(raw, "", NORMAL, NEVER)
      fate = bury(q, key, item, item, "corrupt", "", 0) == "dead" and "dead" or fate
    end
    if is_counted then
      q[fate] = q[fate] + 1
    end
    q.changed = true
    events[#events + 1] = { q.index, "dead", key, 0, raw and "corrupt" or "missing", fate }
  end

  -- What was put while an item was leased; nil: nothing was. What cannot be read of it is given up:
  -- then the item is as if nothing had been put.
  local function read_after(q, key, item)
    if item.after == 0 then
      return nil
    end
    local raw = call("HGET", q.items, "+" .. key)
    local after, is_buffered = after_in(raw), item.after == BUFFERED
    if after then
      after.buffered = is_buffered
      return after
    end
    call("HDEL", q.items, "+" .. key)
    q.n_buffered = is_buffered and max(0, q.n_buffered - 1) or q.n_buffered
    item.after = 0
    write_item(q, key, item)
    give_up(q, key, raw, is_buffered)
  end

  -- Take out what was put while an item was leased; nil: nothing was.
  local function take_after(q, key, item)
    local after = read_after(q, key, item)
    if after then
      call("HDEL", q.items, "+" .. key)
      item.after = 0
    end
    return after
  end

  -- Put the item of an ended lease back in the line, or its successor in its stead.
  local function return_item(q, key, item, place, delay, since)
    local after = take_after(q, key, item)
    if after and after.buffered then
      q.superseded = q.superseded + 1
      succeed(q, key, item, after)
      return
    end
    if after then
      count_letter(q, item, -1)
      item.body, item.letter = after.body, after.letter
      item.priority = max(item.priority, after.priority)
    end
    item.rest, item.order = delay > 0 and now + delay or 0, 0
    let_wait(q, key, item, now + delay, place, since)
  end

  -- Give up what is kept of a key and is not an item: its bytes are a letter, or it is dropped. nil:
  -- nothing is kept of it. What was put while it was leased takes its place, and is returned; its
  -- tenant is not known any more.
  local function scrap(q, key, raw)
    local raw_after = call("HGET", q.items, "+" .. key)
    call("HDEL", q.items, key, "+" .. key)
    give_up(q, key, raw, true)
    if not raw_after then
      return nil
    end
    local after = after_in(raw_after)
    local is_buffered = not after or after.buffered
    if is_buffered then
      q.n_buffered = max(0, min(q.n_buffered - 1, q.n_leased))
    end
    if not after then
      give_up(q, key, raw_after, true)
      return nil
    end
    local item = new_item(after.body, "", after.priority, after.expires)
    item.letter = after.letter
    let_wait(q, key, item, after.due, "back")
    return item
  end

  -- Forget what was put while an item was leased that has been put anew since.
  local function forget_after(q, key)
    local raw = call("HGET", q.items, "+" .. key)
    local after = after_in(raw)
    if raw and (not after or after.buffered) then
      q.n_buffered = max(0, min(q.n_buffered - 1, q.n_leased))
      q.superseded = q.superseded + 1
    end
    call("HDEL", q.items, "+" .. key)
  end

  -- See to what is kept of a key, of which a member was found that is not its own: give it up, unless
  -- it is an item that is where it says.
  local function look_after(q, key)
    local item, raw = read_item(q, key)
    local line, right = q.ready, item and item.state == READY and member_of(key, item)
    if item and item.state == LEASED then
      line, right = q.leased, lease_member(key, item)
    elseif item and item.state == DELAYED then
      line, right = q.timers, timer_member(key, item)
    end
    if not item or not call("ZSCORE", line, right) then
      scrap(q, key, raw or item and call("HGET", q.items, key))
    elseif item.state ~= LEASED then
      forget_after(q, key)
    end
  end

  -- Take out of the line what is first in it, as a key and a member, and is not that item.
  local function expel(q, key, member)
    call("ZREM", q.ready, member)
    if key and q.fair then
      local priority, rank = read_place(member)
      local place = { tenant = tenant_of_member(member), priority = priority, rank = rank }
      pcall(schedule.remove, q, place)
    end
    recount(q)
    look_after(q, key or member)
  end

  -- End an item that is in no line and under no lease: its successor comes next, or its key is absent.
  local function leave(q, key, item, successor)
    if successor then
      succeed(q, key, item, successor)
    else
      call("HDEL", q.items, key)
      count_letter(q, item, -1)
    end
  end

  -- Give up an item that is in no line and under no lease.
  -- Of one whose value no process could read there is no dropping: `is_unread`.
  local function die(q, key, item, reason, err, is_unread)
    q.changed = true
    local token = item.rank -- of one that waits it says whether it is at its old place
    if item.state ~= LEASED then
      token = (token < 0 and token > -OLD) and token + OLD or 0
    end
    local after = read_after(q, key, item)
    local newest = after and not after.buffered and after or item
    local fate = bury(q, key, item, newest, reason, err, token, is_unread)
    events[#events + 1] = { q.index, "dead", key, token, reason, fate }
    if fate == "kept" then
      item.cancellations, item.expires = 0, NEVER
      return_item(q, key, item, "back", q.base < 0 and UNBURIED or q.ceiling)
      return
    end
    q[fate] = q[fate] + 1
    take_after(q, key, item)
    leave(q, key, item, after and after.buffered and after)
  end

  -- Free the key of a cancelled item, whose holder has ended: its successor comes next.
  local function wind_up(q, key, item)
    end_lease(q, key, item)
    q.cancelled = q.cancelled + 1
    leave(q, key, item, take_after(q, key, item))
  end

  -- Return an item, or give it up, whose lease has run out; `since` is when.
  local function lose(q, key, item, since)
    item.cancellations = 0
    if is_last_delivery(q, item) then
      die(q, key, item, "max_deliveries", "")
      return
    end
    item.expiries = item.expiries + 1
    local first = item.expiries == 1
    local delay = first and 0 or backoff(q, item.deliveries)
    return_item(q, key, item, first and "old" or "back", delay, since)
  end

  -- The time to live of an item that is taken out is over.
  local function outlive(q, key, item)
    q.outlived = q.outlived + 1
    die(q, key, item, "expired", "")
  end

  -- True if a member of the leases or the timers is there of an item; else it goes.
  local function is_there(q, key, item, line, member, right)
    if item and member == right then
      return true
    end
    call("ZREM", line, member)
    recount(q)
    look_after(q, key)
  end

  local function expire(q, key, deadline, member)
    local item = read_item(q, key)
    local right = item and item.state == LEASED and lease_member(key, item)
    if not is_there(q, key, item, q.leased, member, right) then
      return
    end
    events[#events + 1] = { q.index, "expired", key, item.rank }
    if item.cancelled then
      wind_up(q, key, item)
      return
    end
    q.expired = q.expired + 1
    end_lease(q, key, item)
    lose(q, key, item, deadline)
  end

  local function fall_due(q, key, member)
    local item = read_item(q, key)
    local right = item and item.state ~= LEASED and timer_member(key, item)
    if not is_there(q, key, item, q.timers, member, right) then
      return
    end
    q.changed = true
    take_out(q, key, item)
    if item.expires <= now then
      outlive(q, key, item)
    else
      let_wait(q, key, item, now, "back", item.due)
    end
  end

  -- Do what has fallen due, the earliest first, `most` items at most. False: there may be more.
  local function sweep(q, most)
    for _ = 1, most do
      local leased, lease_over, lease = first_over(q.leased)
      local timed, timer_over, timer = first_over(q.timers)
      if leased and (not timed or lease_over <= timer_over) then
        expire(q, leased, lease_over, lease)
      elseif timed then
        fall_due(q, timed, timer)
      else
        return true
      end
      if late() then
        return false
      end
    end
    return false
  end

  return {
    backoff = backoff, is_last_delivery = is_last_delivery, look_at_after = look_at_after,
    read_after = read_after, write_after = write_after, take_after = take_after, succeed = succeed,
    return_item = return_item, scrap = scrap, look_after = look_after, forget_after = forget_after, expel = expel, die = die,
    wind_up = wind_up, lose = lose, outlive = outlive, sweep = sweep,
  }
end)
