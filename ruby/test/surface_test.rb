# frozen_string_literal: true

require "helper"

# What users may build on, and where things may stand.
class SurfaceTest < Minitest::Test
  def test_the_public_surface
    errors = Sabir::Errors::BY_CODE.values.map { |row| row.name.delete_prefix("Sabir::").to_sym }
    others = %i[ApplicationError Calls Client Clock Commands Connection Context Delivery Dispatcher Errors Flag
                GracePeriod Hand Handler Heartbeat Keys Lead Messages Proxy Runs SabirError Server Testing Trying
                VERSION]
    assert_equal (errors + others).sort, Sabir.constants.sort
    assert_equal %i[call close many notify retry service wait_for_service],
                 Sabir::Client.public_instance_methods(false).sort - %i[keep ready]
    assert_equal %i[expose register run service start stop worker],
                 Sabir::Server.public_instance_methods(false).sort - %i[dispatcher]
    assert_equal %i[attempt caller deadline id method service time_left traceparent worker],
                 Sabir::Context.public_instance_methods(false).sort
    assert_equal %i[code data outcome retryable?], Sabir::SabirError.public_instance_methods(false).sort
    assert_equal %i[! != == __id__ __send__ inspect respond_to? to_s], Sabir::Proxy.public_instance_methods.sort
  end

  def test_only_keys_spells_keys # SABIR-KEY-1
    key = /["'][^"'\n]*:(requests|active|reply|alive|leases|dead|attempts)/
    assert_equal %w[keys.rb], code("{lib,examples}").select { |_, text| text.match?(key) }.keys
  end

  def test_the_pure_files_touch_no_socket_clock_or_chance
    pure = code("lib").slice("keys.rb", "errors.rb", "messages.rb", "commands.rb", "dispatch.rb")
    assert_equal 5, pure.size
    pure.each { |name, text| refute text.match?(/Redis\.|Socket|Process\.|Time\.|\brand|SecureRandom|\bsleep/), name }
  end

  def test_no_name_reaches_send_or_eval # SABIR-BODY-3
    code("lib").each do |name, text|
      refute text.match?(/\.(public_|__)?send\b|[^:_]eval\b|\.\w+_(eval|exec)\b/), name
    end
  end

  private

  # @return [Hash{String => String}] what stands in the files, without comments
  def code(folders)
    Dir[File.join(ROOT, folders, "**/*.rb")].to_h do |file|
      [File.basename(file), File.readlines(file).grep_v(/^\s*#/).join]
    end
  end
end
