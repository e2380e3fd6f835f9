-- Transactions: several steps on several queues, all or none.
--
-- All steps are checked before the first is taken: a plan follows each key that they touch, as
-- plan.py has it. A step that a plan has accepted cannot fail. All failures are returned, three
-- values each: the number of the step, the reason, and a detail.

local transactions = lazily(function()
  local kinds = {} -- how to read a step's arguments, check it, and take it

  -- A key as it will be after the steps that were checked so far.
  local function look_at(plan, q, key)
    local known = plan.keys[key]
    if not known then
      local item = read_item(q, key)
      known = {
        there = item and true, leased = item and item.state == LEASED,
        succeeded = item and item.after == BUFFERED, tenant = item and item.tenant,
        done = puts.is_duplicate(q, key), -- once it is absent
      }
      plan.keys[key] = known
    end
    return known
  end

  function kinds.put()
    local step = { queue = take_queue(), terms = puts.take_terms(), keys = {}, bodies = {} }
    take() -- a transaction does not wait for room
    for n = 1, take_number() do
      step.keys[n], step.bodies[n] = take(), take()
    end

    function step.check(plan, q)
      puts.check_limits(step.keys, step.bodies, step.terms)
      if work > puts.MOST_REPLACED then
        return "size"
      end
      for _, key in ipairs(step.keys) do
        local known = look_at(plan, q, key)
        if known.there then
          local refused = puts.refusal(known.tenant, known.leased, step.terms)
          if refused then
            return refused[2], refused[4]
          end
          local buffers = known.leased and step.terms.if_in_flight == "buffer"
          known.succeeded = known.succeeded or buffers
        elseif not known.done then
          known.there, known.tenant = true, step.terms.tenant
          plan.waiting = plan.waiting + 1
          plan.places = plan.waiting
        end
      end
    end

    function step.act(q)
      for n, key in ipairs(step.keys) do
        puts.put_item(q, key, step.bodies[n], step.terms)
      end
    end

    return step
  end

  -- A step that ends a lease; `stays` says whether the item will still be there.
  local function settlement(take_how, stays, act)
    return function()
      local step = { queue = take_queue() }
      local key, token = take(), take()
      local how = take_how and take_how()

      function step.check(plan, q)
        local item = find_held(q, key, token)
        if not item then
          settlements.scrap_leased(q, key, token)
          return "no"
        end
        if item.cancelled then
          return "cancelled", item.cancelled
        end
        local known = look_at(plan, q, key)
        if not known.leased then
          return "twice"
        end
        local buried = q.letters_index == 0 or queue_at(q.letters_index)
        known.leased = false
        known.there = known.succeeded or stays(q, item, how, buried)
        known.done = known.done or (act == settlements.ack_item and q.dedupe_for > 0)
        plan.waiting = plan.waiting + (known.there and 1 or 0)
      end

      function step.act(q)
        act(q, key, find_leased(q, key, token), how)
      end

      return step
    end
  end

  kinds.ack = settlement(settlements.take_ack, function()
    return false
  end, settlements.ack_item)

  kinds.release = settlement(settlements.take_release, function(q, item, how, buried)
    return not (how.counted and buried and moves.is_last_delivery(q, item))
  end, settlements.release_item)

  kinds.reject = settlement(settlements.take_reject, function(q, _, how, buried)
    return not buried or (how.is_unread and q.letters_index == 0)
  end, settlements.reject_item)

  local function transact()
    local steps, plans, failed = {}, {}, { "failed" }
    local asked = {} -- the queues, in the order in which they come
    local adds_items = false
    for n = 1, take_number() do
      steps[n] = kinds[take()]()
      adds_items = adds_items or steps[n].keys ~= nil
    end

    if #steps > MOST_STEPS then
      too_long("a transaction")
    end

    local function fail(step, why, what)
      local at = #failed
      failed[at + 1], failed[at + 2], failed[at + 3] = step, why, what or ""
    end

    for n, step in ipairs(steps) do
      local q = step.queue
      if not q then
        fail(n, "gone")
      else
        if not plans[q] then
          plans[q] = { keys = {}, waiting = 0, places = 0 }
          asked[#asked + 1] = q
        end
        plans[q].last = n
        local why, what = step.check(plans[q], q)
        if why then
          fail(n, why, what)
        end
      end
    end
    for _, q in ipairs(asked) do
      local plan = plans[q]
      local waiting = q.n_ready + q.n_delayed
      if plan.places > 0 and waiting + plan.places > q.max_size then
        fail(plan.last, "full", digits(plan.places))
      end
    end
    if failed[2] then
      return failed
    end
    if full and adds_items then
      return { "raised", full }
    end
    for _, step in ipairs(steps) do
      step.act(step.queue)
    end
    return OK
  end

  return {
    transact = transact,
  }
end)
