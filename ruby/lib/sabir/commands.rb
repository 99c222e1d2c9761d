# frozen_string_literal: true

module Sabir
  # The Redis commands of each step, as data: Arrays of Strings. Pure.
  module Commands
    REPLY_EXPIRES_MS = 60_000
    LEASE_MS = 10_000
    HEARTBEAT_MS = 3_000
    TAKE_MS = 2_000
    DEAD_LETTERS = 1_000

    module_function

    # The client appends requests, one element each [SABIR-CALL-1].
    def push(keys, elements) = [["RPUSH", keys.requests, *elements]]

    # The client waits for one reply.
    # @raise [ArgumentError] block_ms is less than a millisecond [SABIR-TRANSPORT-1]
    def wait(keys, token, block_ms) = [["BLPOP", keys.reply(token), seconds(block_ms)]]

    # Anybody asks for Redis's clock.
    def clock = [["TIME"]]

    # The worker renews its lease and takes one element [SABIR-LEASE-2, SABIR-WORKER-2].
    # @param lease_ends [Integer] ms of Redis's clock
    # @raise [ArgumentError] block_ms is less than a millisecond [SABIR-TRANSPORT-1]
    def take(keys, worker, lease_ends, block_ms)
      [["ZADD", keys.leases, lease_ends.to_s, worker],
       ["BLMOVE", keys.requests, keys.active(worker), "LEFT", "RIGHT", seconds(block_ms)]]
    end

    # The worker takes one element if there is one.
    def take_more(keys, worker) = [["LMOVE", keys.requests, keys.active(worker), "LEFT", "RIGHT"]]

    # The worker answers a call and acknowledges it, both or neither [SABIR-REPLY-3].
    def reply(keys, worker, token, reply, element)
      [["MULTI"],
       ["RPUSH", keys.reply(token), reply],
       ["PEXPIRE", keys.reply(token), REPLY_EXPIRES_MS.to_s],
       *acknowledge(keys, worker, element),
       ["EXEC"]]
    end

    # The worker has run a notification [SABIR-DEAD-4].
    def acknowledge(keys, worker, element) = [["LREM", keys.active(worker), "1", element]]

    # The worker keeps what it can neither answer nor run [SABIR-DEAD-3].
    def bury(keys, worker, letter, element)
      [["MULTI"],
       ["RPUSH", keys.dead, letter],
       ["LTRIM", keys.dead, "-#{DEAD_LETTERS}", "-1"],
       *acknowledge(keys, worker, element),
       ["EXEC"]]
    end

    # The worker is alive [SABIR-LEASE-1].
    # @param lease_ends [Integer] ms of Redis's clock
    def heartbeat(keys, worker, lease_ends)
      [["MULTI"],
       *clock,
       ["ZADD", keys.leases, lease_ends.to_s, worker],
       ["SET", keys.alive, "1", "PX", LEASE_MS.to_s],
       ["EXEC"]]
    end

    # The worker looks what it holds [SABIR-LOST-3].
    def read_hand(keys, worker) = [["LRANGE", keys.active(worker), "0", "-1"]]

    # The worker gives back what it took last [SABIR-STOP-3].
    def give_back(keys, worker) = [["LMOVE", keys.active(worker), keys.requests, "RIGHT", "LEFT"]]

    # The worker's hand is empty and it ends [SABIR-STOP-4].
    def goodbye(keys, worker) = [["ZREM", keys.leases, worker]]

    # Zero would mean "for ever" to Redis.
    def seconds(block_ms)
      raise ArgumentError, "block_ms: expected at least 1, got #{block_ms.inspect}" unless block_ms >= 1

      format("%.3f", block_ms / 1000.0).sub(/\.?0+\z/, "")
    end
  end
end
