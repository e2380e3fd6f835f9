-- The turns of tenants: WF2Q+, as schedule.py has it and explains it.
--
-- Each tenant has an account, in the queue's hash under its name: what it has ready and leased, its
-- start, whether it competes, and the priority and the rank of its next item. Those that compete are
-- in `eligible`, by their finish, if the virtual time has reached their start, else in `early`, by
-- it. The members of `eligible` have the rank of the next item, in seven bytes, before the name: so of
-- equal finishes the one comes first whose next item arrived first. Those with nothing ready and
-- nothing leased are in `idle`, by their start, until a new account would be as good. Weights and
-- caps that were asked for are kept beside the accounts, in the field "%" .. tenant.
--
-- While a tenant is paused, its cap is 0. Its pause, the time and the reason, is in the field
-- "!" .. tenant, and stays when its account is forgotten; the names of all paused tenants are in the
-- field "&".
--
-- Virtual times are whole numbers in doubles: one item of a tenant of weight 1 is 2^24, so that a
-- weight may be anything from a millionth to a million. They are moved back by what they have in
-- common before they get too large to be exact.
--
-- Accounts are read once in a call, and written at its end. A queue without tenants has none.

local schedule = lazily(function()
  local SHARE = 1048576 -- the weight 1, as an integer
  local ITEM = 17592186044416 -- 2^44: the cost of one item at a weight of one 2^20th
  local REMEMBERED = 1024 -- idle tenants ahead of the virtual time that are kept
  local TOO_LATE = 2251799813685248 -- 2^51

  local function shares_of(weight)
    return max(1, floor(weight * SHARE + 0.5))
  end

  local function cost(account)
    return max(1, floor(ITEM / account.shares))
  end

  local function finish(account)
    return account.start + cost(account)
  end

  local function may_compete(account)
    local capped = account.cap >= 0 and account.in_flight >= account.cap
    return account.ready > 0 and not capped
  end

  -- The number of items of a tenant that can be handed out.
  local function slots_in(account)
    if not account then
      return 0
    elseif account.cap < 0 then
      return account.ready
    end
    return max(0, min(account.ready, account.cap - account.in_flight))
  end

  -- True if a field of the accounts is that of a tenant, and not of what is kept beside them.
  local function is_name(field)
    return field == "" or byte(field) == 61
  end

  -- The numbers in these bytes; raises if they are not so many.
  local function numbers_in(raw, count)
    local read = { cmsgpack.unpack(raw) }
    for n = 1, count do
      assert(read[n] > -NEVER and read[n] < NEVER)
    end
    return unpack(read, 1, count + 1)
  end

  local function unpack_account(raw)
    local ready, in_flight, start, competing, eligible, idle, shares, cap, priority, rank, known =
      numbers_in(raw, 10)
    assert(shares >= 1 and rank >= -2 * OLD and rank <= OLD)
    return {
      ready = max(0, ready), in_flight = max(0, in_flight), start = start,
      competing = competing == 1, eligible = eligible == 1, idle = idle == 1, shares = shares,
      cap = cap, priority = priority, rank = rank,
      further = known ~= nil and pack(select(11, cmsgpack.unpack(raw))) or "", -- of newer formats
    }
  end

  -- The account of a tenant; nil: there is none that can be read.
  local function find(q, tenant)
    q.cached = q.cached or {}
    local account = q.cached[tenant]
    if account == nil then
      local raw = is_name(tenant) and call("HGET", q.accounts, tenant)
      if not raw then
        return nil
      end
      work = work + 1
      local sound, read = pcall(unpack_account, raw)
      account = sound and read or nil
      q.cached[tenant] = account
    end
    return account or nil
  end

  -- The end of a tenant's members of the line.
  local function line_end(tenant)
    return "(" .. prefix_of(tenant) .. string.rep("\255", 5)
  end

  -- The number of items in the line of a tenant, or as many as can be counted.
  local function line_length(q, tenant)
    local from = "[" .. prefix_of(tenant)
    return #call("ZRANGE", q.ready, from, line_end(tenant), "BYLEX", "LIMIT", 0, LOT)
  end

  -- The priority and the rank of a tenant's next item; there must be one, but for what others write.
  local function next_place(q, tenant)
    work = work + 1
    local _, member = head(q, tenant)
    if not member then
      return 0, 0
    end
    return read_place(member)
  end

  -- The weight of a tenant, as a whole number, and its cap, which is 0 while it is paused.
  local function terms_of(q, tenant)
    local declared = call("HGET", q.accounts, "%" .. tenant)
    local sound, shares, cap = pcall(numbers_in, declared or "", 2)
    if not sound or shares < 1 then
      shares, cap = SHARE, -1
    end
    local is_paused = q.n_paused > 0 and call("HEXISTS", q.accounts, "!" .. tenant) == 1
    return shares, is_paused and 0 or cap
  end

  -- The account of a tenant, to be changed, made if there is none; and true if it was made: what is in
  -- the line by then is in it, should one have been lost.
  local function account_of(q, tenant)
    local account, made = find(q, tenant), false
    if account == nil then
      local shares, cap = terms_of(q, tenant)
      account = {
        ready = line_length(q, tenant), in_flight = 0, start = 0, competing = false,
        eligible = false, idle = false, shares = shares, cap = cap, priority = 0, rank = 0,
        further = "",
      }
      if account.ready > 0 then
        account.priority, account.rank = next_place(q, tenant)
      end
      q.cached[tenant], made = account, true
    elseif account.idle then
      call("ZREM", q.idle, tenant)
      account.idle = false
    end
    account.changed = true
    return account, made
  end

  local function tag(tenant, account)
    return struct.pack(">I7", account.rank + BIAS) .. tenant
  end

  local function tenant_of(tagged)
    return sub(tagged, 8)
  end

  local function file(q, tenant, account)
    account.eligible = account.start <= q.virtual
    if account.eligible then
      call("ZADD", q.eligible, finish(account), tag(tenant, account))
    else
      call("ZADD", q.early, account.start, tenant)
    end
  end

  local function unfile(q, tenant, account)
    if account.eligible then
      call("ZREM", q.eligible, tag(tenant, account))
    else
      call("ZREM", q.early, tenant)
    end
  end

  -- Note that a tenant has another next item.
  local function follow(q, tenant, account, priority, rank)
    if account.eligible and rank ~= account.rank then
      call("ZREM", q.eligible, tag(tenant, account))
      account.rank = rank
      call("ZADD", q.eligible, finish(account), tag(tenant, account))
    end
    account.priority, account.rank = priority, rank
  end

  local function compete(q, tenant, account)
    if not account.competing and may_compete(account) then
      account.competing = true
      account.start = max(account.start, q.virtual)
      q.shares = q.shares + account.shares
      file(q, tenant, account)
    end
  end

  local function withdraw(q, tenant, account)
    if account.competing then
      unfile(q, tenant, account)
      account.competing, account.eligible = false, false
      q.shares = max(0, q.shares - account.shares)
    end
  end

  -- Let an account idle that has nothing ready and nothing leased, and forget what may be.
  local function rest(q, tenant, account)
    if account.ready == 0 and account.in_flight == 0 and not account.idle then
      account.idle = true
      call("ZADD", q.idle, account.start, tenant)
    end
    while true do
      local first = call("ZRANGE", q.idle, 0, 0, "WITHSCORES")
      if not first[1] then
        return
      end
      if tonumber(first[2]) > q.virtual and call("ZCARD", q.idle) <= REMEMBERED then
        return
      end
      call("ZREM", q.idle, first[1])
      if is_name(first[1]) then
        call("HDEL", q.accounts, first[1])
      end
      q.cached[first[1]] = false
    end
  end

  local function flush(q)
    for tenant, account in pairs(q.cached or {}) do
      if account and account.changed then
        account.changed = false
        call("HSET", q.accounts, tenant, pack(
          account.ready, account.in_flight, account.start, account.competing and 1 or 0,
          account.eligible and 1 or 0, account.idle and 1 or 0, account.shares, account.cap,
          account.priority, account.rank
        ) .. account.further)
      end
    end
  end

  -- Move all virtual times back by what they have in common, and file all accounts anew. O(tenants),
  -- once in many hand-outs.
  local function rebase(q, by)
    flush(q)
    local names = call("HKEYS", q.accounts)
    call("DEL", q.eligible, q.early, q.idle)
    q.virtual, q.shares = q.virtual - by, 0
    for _, tenant in ipairs(names) do
      local account = find(q, tenant)
      if account then
        account.start = account.start - by
        account.changed = true
        if account.competing then
          q.shares = q.shares + account.shares
          file(q, tenant, account)
        elseif account.idle then
          call("ZADD", q.idle, account.start, tenant)
        end
      end
    end
  end

  local function push(q, item)
    work = work + 4
    local tenant = item.tenant
    local account = account_of(q, tenant)
    account.ready = account.ready + 1
    local higher = item.priority > account.priority
    local first = item.priority == account.priority and item.rank < account.rank
    if account.ready == 1 or higher or first then
      follow(q, tenant, account, item.priority, item.rank)
    end
    compete(q, tenant, account)
  end

  -- An item is not ready any more, but not handed out either.
  local function remove(q, item)
    local tenant = item.tenant
    local account, made = account_of(q, tenant)
    account.ready = made and account.ready or max(0, account.ready - 1)
    if made then
      compete(q, tenant, account)
    elseif account.ready == 0 then
      withdraw(q, tenant, account)
      rest(q, tenant, account)
    elseif item.priority == account.priority and item.rank == account.rank then
      follow(q, tenant, account, next_place(q, tenant))
    end
  end

  -- A ready item of a tenant that competes is leased; `restricted`: it was asked for by its tenant
  -- or its key.
  local function hand_out(q, tenant, restricted)
    work = work + 4
    local account = account_of(q, tenant)
    if not restricted then
      q.virtual = q.virtual + math.ceil(ITEM / max(1, q.shares))
    end
    account.ready = max(0, account.ready - 1)
    account.in_flight = account.in_flight + 1
    unfile(q, tenant, account)
    account.start = account.start + cost(account)
    if account.ready > 0 then
      account.priority, account.rank = next_place(q, tenant)
    end
    if may_compete(account) then
      file(q, tenant, account)
    else
      account.competing, account.eligible = false, false
      q.shares = max(0, q.shares - account.shares)
    end
    if q.virtual > TOO_LATE then
      rebase(q, q.virtual)
    end
  end

  -- A tenant has nothing ready, whatever its account says.
  local function clear(q, tenant)
    local account = find(q, tenant)
    if account then
      withdraw(q, tenant, account)
      account.ready, account.changed = 0, true
      rest(q, tenant, account)
    end
  end

  -- The lease on an item of a tenant has ended. True: the tenant has a cap.
  local function end_lease(q, tenant)
    local account = account_of(q, tenant)
    account.in_flight = max(0, account.in_flight - 1)
    compete(q, tenant, account)
    rest(q, tenant, account)
    return account.cap >= 0
  end

  local function claimable(q, tenant)
    local account = find(q, tenant)
    return account ~= nil and account.competing
  end

  -- File the account of a tenant anew; one that is lost or cannot be read is made anew, if there is
  -- something in its line.
  local function refile(q, tenant)
    local is_known = is_name(tenant) and #tenant <= MOST_NAME
    if is_known and (find(q, tenant) or head(q, tenant)) then
      local account = account_of(q, tenant)
      withdraw(q, tenant, account)
      compete(q, tenant, account)
      rest(q, tenant, account)
    end
  end

  -- True if there is something in the line for which an account should compete: the first tenant's
  -- account, or where it is filed, is lost.
  local function is_lost(q)
    local key, member = head(q)
    local account = key and find(q, tenant_of_member(member))
    return key and not (account and account.ready > 0 and account.in_flight <= q.n_leased
      and not may_compete(account))
  end

  -- Make all accounts anew from what is in the line, as far as they are lost, and file them.
  local function restore(q)
    rebase(q, 0)
    local from = "-"
    for _ = 1, LOT do
      local member = call("ZRANGE", q.ready, from, "+", "BYLEX", "LIMIT", 0, 1)[1]
      if not member then
        return
      elseif place_at(member) then
        local tenant = tenant_of_member(member)
        local account = find(q, tenant)
        if account then
          account.ready = max(account.ready, line_length(q, tenant))
          account.in_flight = min(account.in_flight, q.n_leased)
          account.priority, account.rank = next_place(q, tenant)
        end
        refile(q, tenant)
        from = line_end(tenant)
      else
        from = "(" .. member
      end
    end
  end

  -- The tenant whose turn it is; nil: none competes.
  local function next_turn(q)
    q.changed = true -- the virtual time may leap
    local restored = false
    while true do
      local turn = call("ZRANGE", q.eligible, 0, 0)[1]
      local first = call("ZRANGE", q.early, 0, 0, "WITHSCORES")
      local competes = turn and find(q, tenant_of(turn))
      local start = tonumber(first[2]) or NEVER
      if start < NEVER and not turn then
        q.virtual = max(q.virtual, start)
      end
      if turn and not (competes and tag(tenant_of(turn), competes) == turn) then
        call("ZREM", q.eligible, turn) -- nothing here has written it
        refile(q, tenant_of(turn))
      elseif not turn and start == NEVER and not restored and is_lost(q) then
        restore(q)
        restored = true
      elseif start > q.virtual then
        return turn and tenant_of(turn)
      else
        call("ZREM", q.early, first[1])
        local account = find(q, first[1])
        if account then
          account.eligible, account.changed = true, true
          call("ZADD", q.eligible, finish(account), tag(first[1], account))
        else
          refile(q, first[1])
        end
      end
    end
  end

  -- A tenant that competes, mostly the one whose turn it is; nil: none does.
  local function peek_turn(q)
    local turn = call("ZRANGE", q.eligible, 0, 0)[1]
    return turn and tenant_of(turn) or call("ZRANGE", q.early, 0, 0)[1]
  end

  local function slots_of(q, tenant)
    return slots_in(find(q, tenant))
  end

  -- Tenants that compete: at most so many of the early ones, and as many of the eligible ones.
  local function competing(q, most)
    local tenants = call("ZRANGE", q.early, 0, most - 1)
    for _, tagged in ipairs(call("ZRANGE", q.eligible, 0, most - 1)) do
      tenants[#tenants + 1] = tenant_of(tagged)
    end
    return tenants
  end

  local LOOKED_AT = 16 -- tenants without an account that are asked for, of which one may be lost

  -- The tenant whose turn it is among some; nil: none competes.
  local function next_of(q, tenants)
    local first, earliest, rank
    for n = 1, min(#tenants, LOOKED_AT) do
      if not find(q, tenants[n]) then
        refile(q, tenants[n])
      end
    end
    work = work + #tenants / 50
    for _, tenant in ipairs(tenants) do
      local account = find(q, tenant)
      if account and account.competing then
        local mine = finish(account)
        if not first or mine < earliest or (mine == earliest and account.rank < rank) then
          first, earliest, rank = tenant, mine, account.rank
        end
      end
    end
    return first
  end

  -- Begin to tell tenants apart: the items that are there so far have none.
  local function begin(q)
    q.fair, q.virtual, q.shares = true, 0, 0
    if q.n_ready + q.n_leased > 0 then
      local account = account_of(q, "")
      account.ready, account.in_flight = q.n_ready, q.n_leased
      if q.n_ready > 0 then
        account.priority, account.rank = next_place(q, "")
      end
      compete(q, "", account)
    end
  end

  -- File a tenant anew, whose weight, cap or pause has changed.
  local function renew(q, tenant)
    local account = find(q, tenant)
    if account then
      withdraw(q, tenant, account)
      account.shares, account.cap = terms_of(q, tenant)
      account.changed = true
      compete(q, tenant, account)
    end
  end

  local function set_tenant(q, tenant, weight, cap)
    call("HSET", q.accounts, "%" .. tenant, pack(shares_of(weight), cap))
    renew(q, tenant)
  end

  -- The names of all tenants that are paused, in the order of their pauses.
  local function paused_names(q)
    local raw = call("HGET", q.accounts, "&")
    local sound, names = pcall(cmsgpack.unpack, raw or "")
    return sound and type(names) == "table" and names or {}
  end

  -- The time of the pause in these bytes, and its reason; nil: they are not one.
  local function read_pause(raw)
    local sound, since, reason = pcall(cmsgpack.unpack, raw or "")
    if sound and type(since) == "number" and type(reason) == "string" then
      return since, reason
    end
  end

  -- Pause a tenant; false: too many are paused.
  local function pause(q, tenant, reason)
    local raw, names = call("HGET", q.accounts, "!" .. tenant), paused_names(q)
    if not raw and #names >= MOST_PAUSED then
      return false
    end
    call("HSET", q.accounts, "!" .. tenant, pack(read_pause(raw) or wall, reason))
    if not raw then
      names[#names + 1] = tenant
      call("HSET", q.accounts, "&", pack(names))
      q.n_paused = #names
      renew(q, tenant)
    end
    return true
  end

  -- Resume a tenant; false: it was not paused.
  local function resume(q, tenant)
    if call("HDEL", q.accounts, "!" .. tenant) == 0 then
      return false
    end
    local names = {}
    for _, name in ipairs(paused_names(q)) do
      if name ~= tenant then
        names[#names + 1] = name
      end
    end
    call("HSET", q.accounts, "&", pack(names))
    q.n_paused = #names
    renew(q, tenant)
    return true
  end

  return {
    push = push, remove = remove, hand_out = hand_out, end_lease = end_lease, claimable = claimable,
    next_turn = next_turn, peek_turn = peek_turn, next_of = next_of, begin = begin, set_tenant = set_tenant,
    flush = flush, find = find, is_name = is_name, refile = refile, clear = clear, withdraw = withdraw, rest = rest,
    slots_of = slots_of, competing = competing, pause = pause, resume = resume, paused_names = paused_names, read_pause = read_pause,
  }
end)
