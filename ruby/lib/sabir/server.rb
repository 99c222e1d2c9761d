# frozen_string_literal: true

require "logger"
require "securerandom"
require_relative "connection"
require_relative "dispatch"
require_relative "hand"
require_relative "heartbeat"
require_relative "lead"
require_relative "runs"
require_relative "trying"

module Sabir
  # One worker: takes the requests of one service and runs the methods that were registered by hand.
  #
  #   server = Sabir::Server.new("calc")
  #   server.register("add") { |a, b| a + b }
  #   server.run
  #
  # Its threads share the work: the one that leads waits for an element and runs the handler itself; see {Lead}. So
  # nothing is taken that can't be started at once [SABIR-WORKER-3].
  class Server
    MARGIN_S = 2.0 # how long Redis may take to answer, above what a command may block
    LAST_TRIES = 7 # attempts to say goodbye, some 6 s: the lease ends by itself

    # @return [String, nil] the worker's id; nil: it has not been started
    attr_reader :worker
    # @return [String]
    attr_reader :service
    # @api private
    attr_reader :dispatcher

    # @param redis [Redis, nil] whose settings are used instead of url; nil: url
    # @param name [String] the first part of the worker's id
    # @param threads [Integer] so many handlers run at a time
    # @param handler_timeout [Numeric, nil] seconds after which a handler is given up: its caller is told InternalError,
    #   and what it returns is dropped. nil: never. When all threads run such handlers, the worker stops [SABIR-RUN-2]
    # @param traces [Boolean] whether stack traces are sent to the caller [SABIR-WORKER-7]
    # @param logger [Logger, nil] nil: warnings go to stderr
    # @raise [ArgumentError] a name outside its grammar, or a limit that is none
    def initialize(service, url: Client::URL, redis: nil, namespace: "sabir", name: "worker", threads: 8,
                   handler_timeout: nil, traces: false, logger: nil,
                   max_bytes: Messages::MAX_BYTES, max_depth: Messages::MAX_DEPTH)
      @keys = Keys.new(namespace, service)
      @service = service
      @name = Keys.check(:name, name)
      @size = threads
      @runs = Runs.new(handler_timeout)
      @logger = logger || Logger.new($stderr, level: Logger::WARN, progname: "sabir")
      @dispatcher = Dispatcher.new(service, traces, @logger, { max_bytes: max_bytes, max_depth: max_depth })
      @clock = Clock.new
      @trying = Trying.new(@logger)
      @takes, @replies, @beats = Array.new(3) { Connection.new(url, redis, @clock) } # [SABIR-TRANSPORT-3]
      @stopping, @drained, @gone = Array.new(3) { Flag.new }
      @starting, @replying = Array.new(2) { Mutex.new }
      @lead = Lead.new
      @found = [] # what a look has brought and nobody has begun
      @threads = []
    end

    # @param name [String] the method's name on the wire
    # @param callable [#call, nil] nil: the block
    # @return [self]
    # @raise [ArgumentError] a name outside its grammar, kept for the protocol or registered before; nothing to call
    def register(name, callable = nil, &block)
      @dispatcher.register(name.to_s, callable || block)
      self
    end

    # @param only [Array<String>] the public methods of the object that are registered
    # @raise [ArgumentError, NameError]
    def expose(object, only:)
      only.each { |name| register(name, object.public_method(name)) }
      self
    end

    # Serves until SIGTERM or SIGINT, then stops; a second signal ends the process at once.
    # @yield once it serves, before anything is taken
    # @raise [RuntimeError] every handler ran longer than the limit [SABIR-RUN-2]
    def run(&ready)
      signals = Queue.new
      before = %w[TERM INT].to_h { |name| [name, trap(name) { @stopping.up? ? exit!(1) : signals << name }] }
      Thread.new { signals.pop && stop }
      start(&ready)
      @gone.wait(nil) until @gone.up?
      raise @failure if @failure
    ensure
      signals.close
      before.each { |name, handler| trap(name, handler) }
    end

    # Serves in threads of its own, once. Returns when the first heartbeat has been sent, however long Redis is away.
    # @yield once it serves, before anything is taken
    # @return [self]
    def start
      @starting.synchronize do
        raise "started already as #{@worker}" if @worker

        @worker = "#{@name}.#{SecureRandom.hex(8)}" # [SABIR-WORKER-1]
        @heartbeat = Heartbeat.new(@beats, @keys, @worker, @clock, @logger)
        @hand = Hand.new(@keys, @worker, @trying, @logger) { @heartbeat.losses }
        @trying.call("start", @stopping) { begin_with_a_beat } # [SABIR-LEASE-1]
        return self if @stopping.up?

        yield if block_given?
        @pulse = Thread.new { pulse }
        @watch = Thread.new { watch } if @runs.limit
        @threads = Array.new(@size) { Thread.new { work } }
      end
      self
    end

    # Takes nothing more, finishes what has begun, gives back what has not, and says goodbye [SABIR-STOP-1].
    # Returns when all that is done; so a handler calls it in another thread, if at all.
    def stop
      @stopping.raise!
      @starting.synchronize do
        wake until @threads.all? { |thread| @runs.late?(thread) || thread.join(0.05) }
        @drained.raise!
        [@watch, @pulse].each { |thread| thread&.join }
        @trying.call("goodbye", tries: LAST_TRIES) { goodbye } if @pulse && !@gone.up?
        [@takes, @replies, @beats].each(&:close)
        @gone.raise!
      end
    end

    private

    def begin_with_a_beat
      @heartbeat.beat
      [@takes, @replies].each { |line| line.open? || line.reopen(MARGIN_S) }
      policy = @replies.exchange([%w[INFO memory]], MARGIN_S).first.to_s[/^maxmemory_policy:(\S+)/, 1]
      return if [nil, "noeviction"].include?(policy)

      @logger.warn("#{@service}: expected the eviction policy noeviction, got #{policy}: it can evict the queue")
    end

    def pulse
      pause = Commands::HEARTBEAT_MS / 1000.0
      pause = @trying.call("heartbeat", @drained, longest: 1.0) { @heartbeat.beat } until @drained.wait(pause)
    end

    def work
      loop do
        @lead.follow
        break unless lead
      end
    ensure
      @lead.resign
    end

    # Takes and runs, as long as this thread leads.
    # @return [Boolean] false: there is to be no more
    def lead
      ended = nil
      while (taken = take(ended))
        began = @lead.begin
        ended = handle(taken)
        next if @lead.end(began)

        settle(ended) if ended # another one takes, on the connection that this would have left by
        return true
      end
      false
    end

    # @return [Hand::Taken, nil] with its ending; nil: it was left, or given up
    def handle(taken)
      catch(:left) do
        outcome = @dispatcher.process(taken.element, @worker, @clock) { |request| begin_with(request, taken) }
        ending(taken, outcome) if @runs.finish
      end
    end

    # @return [Integer] how many deliveries of it were lost; the handler may start
    # @throw :left it may not: the element stays in the hand, or in somebody else's
    def begin_with(request, taken)
      lost = request.is_a?(Messages::Request) && request.idempotent ? attempts(request.id) : 0
      throw :left unless lost && (@hand.fresh?(taken) || still_there?(taken)) # [SABIR-LEASE-3]

      @runs.start(taken, request)
      lost
    end

    # @return [Boolean] false also where it is told to stop, and could not look
    def still_there?(taken)
      lost = @trying.call("hand", @stopping) { @replying.synchronize { @hand.lost?(@replies, taken) } }
      lost == false
    end

    # @return [Integer, nil] nil: it is told to stop, and could not ask
    def attempts(id)
      @trying.call("attempts", @stopping) do
        count = @replying.synchronize do
          @replies.open? || @replies.reopen(MARGIN_S)
          @replies.exchange(Commands.ask_attempts(@keys, id), MARGIN_S).first
        end
        next 0 if count.is_a?(Exception) && count.message.start_with?("WRONGTYPE") # as heartbeat.lua has it

        Connection.value(count).to_i
      end
    end

    def settle(ended)
      @replying.synchronize { @hand.settle(@replies, ended) }
    end

    # @return [Hand::Taken] with what answers and acknowledges it
    def ending(taken, outcome)
      element = taken.element
      taken.ending = Commands.reply(@keys, @worker, outcome.reply_to, outcome.reply, element) if outcome.reply
      taken.ending ||= Commands.bury(@keys, @worker, outcome.letter, element) if outcome.letter
      taken.ending ||= Commands.acknowledge(@keys, @worker, element)
      taken
    end

    # Gives up the handlers that run too long.
    def watch
      until @drained.wait(@runs.next_in(Clock.monotonic))
        @runs.overdue(Clock.monotonic).each do |run|
          taken = run.taken
          settle(ending(taken, @dispatcher.give_up(taken.element, run.request, @runs.limit, @worker, @clock)))
        end
        hang if @runs.late == @size && !@stopping.up?
      end
    end

    def hang
      @failure = "#{@service}: all #{@size} handlers ran longer than #{@runs.limit} s"
      @logger.error(@failure)
      Thread.new { stop }
    end

    # @param ended [Hand::Taken, nil] what this thread has run: it leaves the hand in the same write
    # @return [Hand::Taken, nil] what is to be started at once; nil: there is to be no more
    def take(ended)
      until @stopping.up?
        taken = @trying.call("take", @stopping) { take_one(ended) }
        return taken if taken && !@stopping.up?
      end
      @hand.settle(@takes, ended) if ended&.ending
      @found.unshift(taken) if taken
      @hand.give_back(@takes, @found)
      @found.clear
      nil
    end

    # What is unsure leaves the hand by itself, on the same connection or its successor: nothing is blocked there.
    def take_one(ended)
      @found.concat(@hand.unseen(@takes)) unless @takes.open?
      @hand.settle(@takes, ended) if ended&.ending && (ended&.unsure || @found.any?)
      return @found.shift if @found.any?

      taken = @hand.take(@takes, Commands.take(@keys, @worker, lease_ends, Commands::TAKE_MS), 2 * MARGIN_S, ended)
      return taken unless taken && ended&.ending # refused: it comes first

      @found << taken
      nil
    end

    def lease_ends = @clock.now_ms + Commands::LEASE_MS

    # Ends the wait of the thread that waits for an element. Where that fails, the block time ends it.
    def wake
      return unless @replying.try_lock

      begin
        @replies.exchange([["CLIENT", "UNBLOCK", @takes.id.to_s]], MARGIN_S) if @replies.open? && @takes.id
      rescue Connection::Lost
        nil
      ensure
        @replying.unlock
      end
    end

    # All handlers have ended, or were given up: what the hand still holds, nobody has begun. And no lost heartbeat may
    # come late.
    def goodbye
      @beats.open? || @beats.reopen(MARGIN_S)
      @hand.empty(@takes)
      done = @takes.script(Commands.goodbye(@keys, @worker).first, MARGIN_S) # [SABIR-STOP-5]
      @logger.warn("#{@service}: the hand of #{@worker} is not empty; its lease is left to end") unless done == 1
    end
  end
end
