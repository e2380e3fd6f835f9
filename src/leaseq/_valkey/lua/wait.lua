-- Waiting: for the time to come, for a wake-up, for the end.

local waits = lazily(function()
  local function sweep()
    local q = take_queue()
    local limit = take_number()
    if not q then
      return GONE
    end
    local outlived = q.outlived
    local all = moves.sweep(q, limit)
    return { "ok", all and 0 or 1, q.outlived - outlived }
  end

  -- Pass a wake-up on that its process does not want any more.
  local function wake()
    local q = take_queue()
    local want = take()
    if not q then
      return GONE
    end
    local kind, name = sub(want, 1, 1), sub(want, 2)
    if n_parked(q) == 0 then
      return OK
    elseif kind == "a" or kind == "A" then
      waiters.wake_next(q)
    elseif kind == "k" then
      local item = read_item(q, name)
      if item and item.state == READY then
        waiters.wake_for(q, name, item.tenant)
      end
    elseif kind == "r" then
      waiters.wake_for_room(q)
    elseif kind == "c" or kind == "t" or kind == "T" or kind == "s" or kind == "S" then
      waiters.wake_for_slot(q, name)
    end
    return OK
  end

  local function unpark()
    local q = take_queue()
    local members = {}
    for n = 1, take_number() do
      members[n] = waiters.parked_member(take(), take())
    end
    if not q then
      return GONE
    end
    for _, member in ipairs(members) do
      waiters.unpark_member(q, member)
    end
    return OK
  end

  -- Of these wants of the process, those for which it is parked no more: either another one was to
  -- be woken, or it is the process itself that is, by this. It wants room for so many `places`.
  local function parked()
    local q = take_queue()
    local places = take_number()
    local gone = { "ok" }
    for _ = 1, take_number() do
      local want, stamp = take(), take()
      if q then
        local stands = waiters.is_parked(q, want, stamp)
        if stands and waiters.is_overlooked(q, want, places) then
          stands = not waiters.unpark_member(q, waiters.parked_member(want, stamp))
        end
        gone[#gone + 1] = not stands and want or nil
      end
    end
    return q and gone or GONE
  end

  local function join()
    local q = take_queue()
    local stamp = take() -- of the park that the process has already; "0": none
    if not q then
      return GONE
    end
    if total(q) > 0 and not waiters.is_parked(q, "j", stamp) then
      stamp = waiters.park(q, "j") or 0
    end
    return { "ok", total(q), tonumber(stamp) }
  end

  return {
    sweep = sweep, wake = wake, unpark = unpark, parked = parked, join = join,
  }
end)
