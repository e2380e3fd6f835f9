-- Queues by name.
--
-- The hash of queues has, under a queue's name, the time when it was made, its number, its options
-- as they were given, and the name of its queue of dead letters; under "", how many were ever made.

local function entry_of(raw)
  local created, number, options, letters = cmsgpack.unpack(raw)
  return { created = created, number = number, options = options, letters = letters }
end

-- All of them, in the order in which they were made. O(queues)
local function all_entries()
  local all = call("HGETALL", KEYS[2])
  local entries = {}
  for n = 1, #all, 2 do
    if all[n] ~= "" then
      local entry = entry_of(all[n + 1])
      entry.name = all[n]
      entries[#entries + 1] = entry
    end
  end
  table.sort(entries, function(one, other)
    return one.number < other.number
  end)
  return entries
end
